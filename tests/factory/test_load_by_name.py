"""`load_model`, with which commands load: every form of MODEL, typos, and the Hub without a network."""

import shutil
import time
from pathlib import Path

import pytest
import timm
import torch
from hub_server import HubServer
from huggingface_hub import constants
from paths import DATA
from peers import assert_close, random_images, timm_peer
from safetensors.torch import save_file
from timm.models import save_for_hf

from coatnet_zoo import CheckpointError, HubError
from coatnet_zoo.factory import load_model


@pytest.fixture(autouse=True)
def cache(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache."""
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(fresh_cache))


@torch.no_grad()
def test_all_sources_are_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also what is assumed where a file records no preprocessing is printed."""
    monkeypatch.chdir(tmp_path)
    digits = timm.create_model('coatnet_atto.digits', pretrained=True).eval()
    save_for_hf(digits, 'folder', safe_serialization=True)
    for name in ('state.pth', 'coatnet_atto.pth'):
        torch.save(digits.state_dict(), name)
    torch.save({'epoch': 3, 'arch': 'coatnet_atto', 'state_dict': digits.state_dict()}, 'training.pth.tar')
    Path('coatnet_atto').mkdir()  # a name is a name, whatever lies in the current folder
    x = torch.randn(2, 1, 64, 64)
    files = 'state.pth', 'coatnet_atto.pth', 'training.pth.tar'
    for name in ('coatnet_atto', 'coatnet_atto.digits', 'folder', 'local-dir:folder', *files):
        model = load_model(name)
        assert not model.training, name
        assert ('assuming mean (0.5,) and std (0.5,)' in caplog.text) == (name in files)
        caplog.clear()
        torch.testing.assert_close(model(x), digits(x), rtol=0, atol=1e-6)


NO_MODELS = {
    'coatnet1': 'Did you mean coatnet_1?',
    'coatnet_atto.birds': "The model 'coatnet_atto.birds' cannot be loaded",
    'coatnet_pico_rw_224': "timm's coatnet_pico_rw_224 has no published weights",
    'coatnet_nano_cc_224': 'has blocks that this package does not have',
    'coatnet_5': 'No weights are published for coatnet_5',
    'no_such_file.pth': 'a checkpoint file or hf-hub:ORG/NAME.',
    'resnet18': 'its architecture is resnet18',
    'local-dir:/no/such/folder': '/no/such/folder',
    'image.png': 'image.png is a corrupt or truncated',
    'my/folder': "Use 'hf-hub:my/folder'",
    **dict.fromkeys(('', 'empty', 'a\nb', 'local-dir:', 'local-dir:a\0b', '\udcff', 'x' * 5000), 'cannot be loaded'),
}


@pytest.mark.parametrize('name', NO_MODELS, ids=lambda name: repr(name)[:30])
def test_what_is_no_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> None:
    monkeypatch.chdir(tmp_path)
    Path('empty').mkdir()
    shutil.copy(DATA / 'digits' / '7_row1496.png', 'image.png')
    with pytest.raises(CheckpointError) as caught:
        load_model(name)
    message = str(caught.value)
    assert NO_MODELS[name] in message and message.isprintable() and len(message) < 3000
    assert hub.requests == []


def test_loading_by_the_name_of_timm(hub: HubServer, tmp_path: Path) -> None:
    theirs = timm_peer('coatnet_nano_rw_224')
    save_file(theirs.state_dict(), tmp_path / 'model.safetensors')
    hub.add_repo('timm/coatnet_nano_rw_224.sw_in1k', tmp_path)
    images = random_images()
    with torch.inference_mode():
        expected = theirs(images)
        for name in ('coatnet_nano_rw_224', 'coatnet_nano_rw_224.sw_in1k', 'hf-hub:timm/coatnet_nano_rw_224.sw_in1k'):
            model = load_model(name)
            assert model.pretrained_cfg['architecture'] == 'coatnet_nano'
            assert_close(model(images), expected, 1e-4)


def test_a_repository_that_is_not_cached_and_cannot_be_reached(hub: HubServer) -> None:
    """timm itself would try for 23 seconds."""
    hub.stop()
    start = time.monotonic()
    with pytest.raises(
        HubError, match=r'me/x is not in the cache .* cannot be reached .*; connect to a network.* local-dir:'
    ):
        load_model('hf-hub:me/x')
    assert time.monotonic() - start < 6.0


def test_a_cached_repository_needs_no_network(hub: HubServer, tmp_path: Path) -> None:
    save_for_hf(timm.create_model('coatnet_atto', pretrained=True), tmp_path / 'digits', safe_serialization=True)
    hub.add_repo('me/digits', tmp_path / 'digits')
    model = load_model('hf-hub:me/digits')
    hub.stop()
    start, images = time.monotonic(), torch.rand(1, 1, 64, 64)
    again = load_model('hf-hub:me/digits')
    assert time.monotonic() - start < 6.0
    assert torch.equal(again(images), model(images))
    assert len(again.pretrained_cfg['label_names']) == 10
    file = next(Path(constants.HF_HUB_CACHE).glob('models--me--digits/snapshots/*/model.safetensors')).resolve()
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(HubError, match='is damaged'):
        load_model('hf-hub:me/digits')


def test_repositories_that_the_hub_does_not_have(hub: HubServer) -> None:
    with pytest.raises(HubError, match=r"'me/x' cannot be fetched .* Repository Not Found"):
        load_model('hf-hub:me/x')
