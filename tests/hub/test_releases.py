"""Weights on a release page: downloaded from a loopback server, checked, converted once and kept; and what fails.

The server has the small network of `test_keras_cv.py` in place of the published one, so that logits are known.
"""

import dataclasses
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants
from paths import DATA
from release_page import CONTENT, ReleasePage, md5

from coatnet_zoo import CheckpointError, HubError
from coatnet_zoo.hub import download, releases, waiting
from coatnet_zoo.registry import WEIGHTS

h5py = pytest.importorskip('h5py')

NAME = 'coatnet_0.kecam_in1k'
SMALL = dict(
    stem_width=(16, 16),
    embed_dim=(32, 48, 64, 96),
    depths=(1, 2, 2, 1),
    img_size=64,
    pretrained_cfg_overlay=dict(num_classes=10),
)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleasePage]:
    """The release host, with a small network in the place of the published one."""
    page = ReleasePage()
    monkeypatch.setattr(releases, 'RELEASE_HOST', page.url)
    # The client writes 10 MiB at a time; this file is smaller than that.
    monkeypatch.setattr(constants, 'DOWNLOAD_CHUNK_SIZE', 10_000)
    monkeypatch.setattr(waiting, '_WAITS', (0.1, 0.1, 0.1))
    monkeypatch.setitem(WEIGHTS, NAME, dataclasses.replace(WEIGHTS[NAME], md5=md5(CONTENT)))
    yield page
    page.httpd.shutdown()
    page.httpd.server_close()


def create(cache: Path) -> torch.nn.Module:
    return timm.create_model(NAME, pretrained=True, cache_dir=cache, **SMALL).eval()


def assert_loads(cache: Path) -> None:
    with np.load(DATA / 'keras_cv_small_expected.npz') as content, torch.inference_mode():
        x, logits = torch.from_numpy(content['x']).permute(0, 3, 1, 2), torch.from_numpy(content['logits'])
        torch.testing.assert_close(create(cache)(x), logits, rtol=0, atol=2e-5)


def assert_fails(cache: Path, *words: str) -> None:
    """One sentence that has these words; nothing is kept that a later load takes for whole."""
    with pytest.raises(HubError) as e:
        create(cache)
    assert '\n' not in str(e.value)
    for word in words:
        assert word in str(e.value), e.value
    assert not list(cache.rglob('*.safetensors'))


def kept(cache: Path) -> list[str]:
    """The files of the cache besides locks and the notes of hashes."""
    return sorted(p.name for p in cache.rglob('*') if p.is_file() and p.suffix not in ('.lock', '.sha256'))


def test_a_damaged_file_is_never_loaded(page: ReleasePage, fresh_cache: Path) -> None:
    assert_loads(fresh_cache)
    file = releases.release_file(WEIGHTS[NAME].release, md5(CONTENT), fresh_cache)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(HubError, match='is damaged; delete it'):
        create(fresh_cache)
    file.unlink()
    assert_loads(fresh_cache)


def test_it_is_downloaded_and_converted_once(page: ReleasePage, fresh_cache: Path, monkeypatch) -> None:
    assert_loads(fresh_cache)
    assert page.ranges == [None]
    name = f'coatnet0_224_imagenet-{md5(CONTENT)[:8]}.safetensors'
    assert kept(fresh_cache) == [name]
    # Neither the network nor h5py is needed any more.
    page.httpd.shutdown()
    monkeypatch.setitem(sys.modules, 'h5py', None)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert_loads(fresh_cache)


def test_the_model_names_its_source(page: ReleasePage, fresh_cache: Path) -> None:
    cfg = create(fresh_cache).pretrained_cfg
    url = 'https://github.com/leondgarse/keras_cv_attention_models/releases/download/coatnet/coatnet0_224_imagenet.h5'
    assert (cfg['url'], cfg['license'], cfg['tag']) == (url, 'mit', 'kecam_in1k')


def test_no_token_is_sent(page: ReleasePage, fresh_cache: Path, monkeypatch) -> None:
    monkeypatch.setenv('HF_TOKEN', 'hf_secret')
    assert_loads(fresh_cache)
    assert page.headers and not any('secret' in v for headers in page.headers for v in headers.values())


def test_without_cache_dir_it_is_kept_under_hf_home(page: ReleasePage) -> None:
    timm.create_model(NAME, pretrained=True, **SMALL)
    file = releases.release_file(WEIGHTS[NAME].release, md5(CONTENT))
    assert file.is_file() and file.parent == Path(os.environ['HF_HOME']) / 'coatnet-zoo'
    file.unlink()


def test_weights_of_a_release_can_be_fine_tuned(page: ReleasePage, fresh_cache: Path) -> None:
    arguments = dict(SMALL, pretrained_cfg_overlay=dict(num_classes=10), num_classes=5, in_chans=1)
    model = timm.create_model(NAME, pretrained=True, cache_dir=fresh_cache, **arguments)
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 5)


# Faults.


def test_without_a_network(page: ReleasePage, fresh_cache: Path, monkeypatch) -> None:
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{unused.getsockname()[1]}'
    for host in (url, 'http://no-such-host.invalid'):
        with monkeypatch.context() as m:
            m.setattr(releases, 'RELEASE_HOST', host)
            start = time.monotonic()
            assert_fails(fresh_cache, host, 'cannot be reached', 'connect to a network')
            assert time.monotonic() - start < 5
    assert_loads(fresh_cache)


def test_a_host_that_says_nothing(page: ReleasePage, fresh_cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(releases, 'CONNECT_TIMEOUT', 0.5)
    with socket.socket() as silent, monkeypatch.context() as m:
        silent.bind(('127.0.0.1', 0))
        silent.listen()
        m.setattr(releases, 'RELEASE_HOST', f'http://127.0.0.1:{silent.getsockname()[1]}')
        start = time.monotonic()
        assert_fails(fresh_cache, 'cannot be reached')
        assert time.monotonic() - start < 5
    assert_loads(fresh_cache)


def test_offline_never_touches_the_network(page: ReleasePage, fresh_cache: Path, monkeypatch) -> None:
    with monkeypatch.context() as m:
        m.setattr(constants, 'HF_HUB_OFFLINE', True)
        assert_fails(fresh_cache, 'HF_HUB_OFFLINE is set')
    assert page.headers == []


def test_without_h5py_nothing_is_downloaded(page: ReleasePage, fresh_cache: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, 'h5py', None)
    with pytest.raises(CheckpointError, match=re.escape('pip install coatnet-zoo[keras]')):
        create(fresh_cache)
    assert page.headers == []


@pytest.mark.parametrize('status', [401, 403, 404, 500, 503])
def test_errors_of_the_host(status: int, page: ReleasePage, fresh_cache: Path) -> None:
    page.status = status
    assert_fails(fresh_cache, page.url, str(status))
    page.status = None
    assert_loads(fresh_cache)


def test_another_file_is_thrown_away(page: ReleasePage, fresh_cache: Path) -> None:
    page.content = CONTENT[:-1] + b'?'
    assert_fails(fresh_cache, md5(page.content), md5(CONTENT), 'thrown away')
    assert kept(fresh_cache) == []
    page.content = CONTENT
    assert_loads(fresh_cache)


def test_a_body_that_is_cut_short_is_resumed(page: ReleasePage, fresh_cache: Path) -> None:
    page.die_after = 100_000
    assert_loads(fresh_cache)
    assert page.ranges == [None, 'bytes=100000-']


def test_a_host_that_declares_no_size(page: ReleasePage, fresh_cache: Path) -> None:
    page.declares_size = False
    page.die_after = 100_000
    assert_loads(fresh_cache)
    assert page.ranges == [None, 'bytes=100000-']


@pytest.mark.parametrize('left', [100_000, len(CONTENT), len(CONTENT) + 7])
def test_a_download_that_was_killed_is_resumed(left: int, page: ReleasePage, fresh_cache: Path) -> None:
    """In the middle; at its end, before the conversion; and with more in it than there is."""
    file = releases.release_file(WEIGHTS[NAME].release, md5(CONTENT), fresh_cache)
    file.parent.mkdir()
    incomplete = file.with_suffix('.h5.incomplete')
    incomplete.write_bytes((CONTENT + bytes(7))[:left])
    assert_loads(fresh_cache)
    assert page.ranges[-1:] == {100_000: ['bytes=100000-'], len(CONTENT): []}.get(left, [None])
    assert kept(fresh_cache) == [file.name]


# Without the seconds that importing timm takes.
SCRIPT = f"""
import sys
import coatnet_zoo_command
coatnet_zoo_command.without_models = True
from coatnet_zoo.hub import fetch_release, releases
releases.RELEASE_HOST = sys.argv[1]
print('ready', flush=True)
fetch_release({WEIGHTS[NAME].release!r}, {md5(CONTENT)!r}, sys.argv[2])
"""


def start(page: ReleasePage, cache: Path) -> subprocess.Popen:
    command = [sys.executable, '-c', SCRIPT, page.url, str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_killed_processes_leave_a_usable_cache(page: ReleasePage, fresh_cache: Path) -> None:
    page.chunk_pause = 0.05  # 4 s for the file
    for i, delay in enumerate((0.1, 0.2, 0.4)):
        process = start(page, fresh_cache)
        while len(page.ranges) <= i:
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert not list(fresh_cache.rglob('*.safetensors'))
    page.chunk_pause = 0.0
    assert_loads(fresh_cache)
    assert page.ranges[-1] is not None, 'the last one should have gone on where the others ended'


def test_a_process_that_is_killed_while_it_converts(page: ReleasePage, fresh_cache: Path, monkeypatch) -> None:
    def die(tensors, filename, **kwargs) -> None:
        Path(filename).write_bytes(b'half')
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(safetensors.torch, 'save_file', die)
        with pytest.raises(KeyboardInterrupt):
            create(fresh_cache)
    assert not list(fresh_cache.rglob('*.safetensors'))
    assert_loads(fresh_cache)
    assert page.ranges == [None]


def test_processes_at_once_download_it_once(page: ReleasePage, fresh_cache: Path) -> None:
    page.chunk_pause = 0.05
    processes = [start(page, fresh_cache) for _ in range(3)]
    assert [p.wait(120) for p in processes] == [0, 0, 0]
    for p in processes:
        p.stdout.close()
    assert page.ranges == [None]
    assert_loads(fresh_cache)


def test_a_full_disk(page: ReleasePage, fresh_cache: Path, monkeypatch) -> None:
    def full(*args, **kwargs) -> None:
        raise OSError(28, 'No space left on device')

    for module, function in ((download, '_receive'), (safetensors.torch, 'save_file')):
        with monkeypatch.context() as m:
            m.setattr(module, function, full)
            assert_fails(fresh_cache, 'No space left on device')
    assert_loads(fresh_cache)


def test_a_folder_that_cannot_be_made(page: ReleasePage, fresh_cache: Path) -> None:
    (fresh_cache / 'coatnet-zoo').write_text('a file')
    assert_fails(fresh_cache, 'cannot be fetched into')


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write to read-only folders')
def test_a_read_only_cache(page: ReleasePage, fresh_cache: Path) -> None:
    fresh_cache.chmod(0o555)
    assert_fails(fresh_cache, 'Permission denied')
    fresh_cache.chmod(0o755)
    assert_loads(fresh_cache)
    (fresh_cache / 'coatnet-zoo').chmod(0o555)
    assert_loads(fresh_cache)
    (fresh_cache / 'coatnet-zoo').chmod(0o755)


def test_a_file_that_is_handed_over_is_not_downloaded(page: ReleasePage, tmp_path: Path) -> None:
    shutil.copy(DATA / 'keras_cv_small.h5', tmp_path / 'a.h5')
    overlay = dict(file=str(tmp_path / 'a.h5'), num_classes=10)
    model = timm.create_model(NAME, pretrained=True, **{**SMALL, 'pretrained_cfg_overlay': overlay})
    assert model.pretrained_cfg['file'] == str(tmp_path / 'a.h5')
    assert page.headers == []
