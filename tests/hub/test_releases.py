"""Weights on a release page: downloaded from a loopback server, compared with their checksum, kept; what fails."""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hub_server import Fault, HubServer
from huggingface_hub import constants
from paths import DATA

from coatnet_zoo import HubError
from coatnet_zoo.hub import fetch, fetch_release
from coatnet_zoo.hub.fetch import release_file
from coatnet_zoo.registry import WEIGHTS

NAME = 'coatnet_0.kecam_in1k'
RELEASE = WEIGHTS[NAME].release
CONTENT = (DATA / 'keras_cv_small_weights_only.h5').read_bytes()
MD5 = hashlib.md5(CONTENT).hexdigest()
SIZES = dict(stem_width=(16, 16), embed_dim=(32, 48, 64, 96), depths=(1, 2, 2, 1), img_size=64)
SMALL = dict(SIZES, pretrained_cfg_overlay=dict(num_classes=10))


@pytest.fixture
def page(hub: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The release host, with a small network in the place of the published one; `fresh_cache` is HF_HOME."""
    monkeypatch.setattr(constants, 'HF_HOME', str(fresh_cache))
    monkeypatch.setattr(fetch, 'RELEASE_HOST', hub.url)
    monkeypatch.setitem(WEIGHTS, NAME, dataclasses.replace(WEIGHTS[NAME], md5=MD5))
    hub.other_files[f'/{RELEASE}'] = CONTENT
    return hub


def error_of() -> str:
    """The error of fetching the file, which leaves no partial file."""
    with pytest.raises(HubError) as caught:
        fetch_release(RELEASE, MD5)
    assert '\n' not in str(caught.value)
    return str(caught.value)


def assert_fetched() -> Path:
    file = fetch_release(RELEASE, MD5)
    assert file == release_file(RELEASE, MD5) and file.read_bytes() == CONTENT
    assert os.listdir(file.parent) == [f'coatnet0_224_imagenet-{MD5[:8]}.h5']
    return file


@torch.inference_mode()
def test_logits_are_those_of_keras(page: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is downloaded once; later loads need no network. No token leaves the machine."""
    pytest.importorskip('h5py')
    monkeypatch.setenv('HF_TOKEN', 'hf_secret')
    content = np.load(DATA / 'keras_cv_small_expected.npz')
    x, logits = torch.from_numpy(content['x']).permute(0, 3, 1, 2), torch.from_numpy(content['logits'])
    for _ in range(2):
        model = timm.create_model(NAME, pretrained=True, **SMALL).eval()
        torch.testing.assert_close(model(x), logits, rtol=0, atol=2e-5)
        assert (page.count('GET'), set(page.tokens)) == (1, {None})
        page.stop()
    url = 'https://github.com/leondgarse/keras_cv_attention_models/releases/download/coatnet/coatnet0_224_imagenet.h5'
    cfg = model.pretrained_cfg
    assert (cfg['url'], cfg['license'], cfg['tag']) == (url, 'mit', 'kecam_in1k')


def test_weights_of_a_release_can_be_fine_tuned(page: HubServer) -> None:
    pytest.importorskip('h5py')
    model = timm.create_model(NAME, pretrained=True, **SMALL, num_classes=5, in_chans=1)
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 5)


def test_without_a_network(page: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HF_HUB_ETAG_TIMEOUT', 'set')
    monkeypatch.setattr(constants, 'HF_HUB_ETAG_TIMEOUT', 1)
    page.stop()
    assert page.url in error_of() and 'refused' in error_of()
    page.start()
    page.silent = True
    assert 'timed out' in error_of()
    page.silent = False
    assert_fetched()


def test_offline(page: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert 'HF_HUB_OFFLINE is set' in error_of() and page.requests == []


@pytest.mark.parametrize('method, status', [('HEAD', 404), ('GET', 403), ('GET', 500)])
def test_errors_of_the_host(method: str, status: int, page: HubServer) -> None:
    page.faults.append(Fault(method, status))
    message = error_of()
    assert RELEASE in message and str(status) in message
    assert_fetched()


@pytest.mark.parametrize('body', ['flip', 'cut'])
def test_another_content_is_thrown_away(body: str, page: HubServer) -> None:
    page.faults.append(Fault(body=body))
    message = error_of()
    assert 'arrived damaged and was discarded' in message and MD5 in message
    assert_fetched()


def test_damaged_file(page: HubServer) -> None:
    file = assert_fetched()
    file.write_bytes(CONTENT[:-1] + b'?')
    assert f'{file} is damaged' in error_of() and 'delete it' in error_of()
    fetch_release(RELEASE, MD5, mend=True)
    assert_fetched()


def test_folder_that_cannot_be_made(page: HubServer, fresh_cache: Path) -> None:
    (fresh_cache / 'coatnet-zoo').write_text('a file')
    assert 'cannot be fetched into' in error_of()
