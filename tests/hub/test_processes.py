"""Processes that die, that compete, and disks that refuse: the cache stays usable, and what has arrived is kept."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from children import kill_fetches, result_of, start_fetch
from hub_server import HubServer
from huggingface_hub import constants

from coatnet_zoo import HubError
from coatnet_zoo.hub import cached_weights, fetch_weights
from coatnet_zoo.registry import WEIGHTS

REPO = 'timm/anything'
CONTENT = safetensors.numpy.save({'w': np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32)})
SIZE = len(CONTENT)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def served(hub: HubServer) -> Iterator[HubServer]:
    """The Hub with a file of 16 MB."""
    hub.add_repo(REPO, {'model.safetensors': CONTENT})
    yield hub
    kill_fetches()


def partial_of(cache: Path) -> bytes:
    partial = cache / 'models--timm--anything' / 'blobs' / f'{DIGEST}.incomplete'
    return partial.read_bytes() if partial.exists() else b''


def test_killed_downloads_go_on_where_they_ended(served: HubServer, fresh_cache: Path) -> None:
    served.rate = 4e6
    chance = random.Random(0)
    kept = []
    for i in range(12):
        process = start_fetch(REPO, fresh_cache)
        until(lambda i=i: len(served.bodies) > i)
        time.sleep(chance.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        partial = partial_of(fresh_cache)
        assert CONTENT.startswith(partial) and len(partial) < SIZE
        assert cached_weights(REPO, cache_dir=fresh_cache) is None
        kept.append(len(partial))
    served.rate = None
    path, _ = result_of(start_fetch(REPO, fresh_cache))
    assert Path(path).read_bytes() == CONTENT
    assert partial_of(fresh_cache) == b''
    assert [start for start, _ in served.bodies] == [0, *kept]
    assert kept == sorted(kept) and kept[-1] > SIZE / 20 and len(set(kept)) > 6


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_eight_processes_download_once(served: HubServer, fresh_cache: Path) -> None:
    """The download lasts until all of them have asked."""
    served.rate = 5e6
    processes = [start_fetch(REPO, fresh_cache) for _ in range(8)]
    until(lambda: served.count('HEAD') >= 8 and served.count('GET') == 1)
    (path,) = {result_of(process)[0] for process in processes}
    assert Path(path).read_bytes() == CONTENT
    assert served.count('GET') == 1 and served.count('HEAD') == 8


def test_one_of_several_is_killed(served: HubServer, fresh_cache: Path) -> None:
    """The next one takes over and goes on."""
    served.rate = 5e6
    processes = [start_fetch(REPO, fresh_cache) for _ in range(3)]
    until(lambda: served.count('HEAD') >= 3 and bool(partial_of(fresh_cache)))
    killed = next(p for p in processes if _holds(p, f'{DIGEST}.incomplete'))
    killed.kill()
    killed.communicate()
    served.rate = None
    results = {result_of(process)[0] for process in processes if process is not killed}
    assert Path(results.pop()).read_bytes() == CONTENT and not results
    assert served.count('GET') == 2 and served.bodies[1][0] > 0


def _holds(process: subprocess.Popen, name: str) -> bool:
    fds = Path(f'/proc/{process.pid}/fd')
    if not fds.is_dir():
        pytest.skip('this system has no /proc')
    return any(os.path.realpath(fd).endswith(name) for fd in fds.iterdir())


def test_interrupted_pull_ends_at_once(served: HubServer, fresh_cache: Path) -> None:
    """By Ctrl-C, although threads are still downloading; what has arrived is kept."""
    name = 'coatnet_0.sw_in1k'
    served.add_repo(WEIGHTS[name].hf_hub_id, {'model.safetensors': CONTENT})
    served.rate = 1e6  # the whole takes 17 seconds
    process = subprocess.Popen(
        [sys.executable, '-m', 'coatnet_zoo_command', 'pull', name],
        env={**os.environ, 'HF_HUB_CACHE': str(fresh_cache)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # Processes that a script runs in the background, maybe these tests, ignore the signal and pass that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    until(lambda: bool(served.bodies))
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    process.communicate()
    assert process.returncode == 130 and time.monotonic() - start < 2.0
    assert len(list(fresh_cache.rglob('*.incomplete'))) == 1


# Environment


def test_offline_switch(served: HubServer, fresh_cache: Path) -> None:
    message, seconds = result_of(start_fetch(REPO, fresh_cache, HF_HUB_OFFLINE='1'))
    assert message.startswith('HubError') and 'not in the cache' in message and seconds < 5.0
    assert served.requests == []
    file = fetch_weights(REPO, cache_dir=fresh_cache)
    served.requests.clear()
    assert result_of(start_fetch(REPO, fresh_cache, HF_HUB_OFFLINE='1'))[0] == str(file)
    assert served.requests == []


def test_mirror(served: HubServer, fresh_cache: Path) -> None:
    with HubServer() as mirror:
        mirror.add_repo(REPO, {'model.safetensors': CONTENT})
        path, _ = result_of(start_fetch(REPO, fresh_cache, HF_ENDPOINT=mirror.url))
        assert Path(path).read_bytes() == CONTENT
        assert mirror.count('GET') == 1 and served.requests == []


def test_host_that_does_not_exist(fresh_cache: Path) -> None:
    message, seconds = result_of(start_fetch(REPO, fresh_cache, HF_ENDPOINT='http://hub.invalid'))
    assert message.startswith('HubError') and 'http://hub.invalid cannot be reached' in message
    assert seconds < 5.0


# Disks


def _mount(*args: str | Path) -> None:
    if os.geteuid() != 0 or subprocess.run(['mount', *args], capture_output=True).returncode != 0:
        pytest.skip('mounting a file system is not permitted here')


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The folder cannot be written to, not even by root."""
    _mount('--bind', folder, folder)
    try:
        _mount('-o', 'remount,bind,ro', folder)
        yield
    finally:
        subprocess.run(['umount', folder], check=True)


@contextmanager
def read_only_for_others(folder: Path) -> Iterator[None]:
    if os.geteuid() == 0:
        pytest.skip('root may write to read-only folders')
    folders = [folder, *(p for p in folder.rglob('*') if p.is_dir())]
    for path in folders:
        path.chmod(0o555)
    yield
    for path in folders:
        path.chmod(0o755)


@pytest.mark.parametrize('protect', [read_only, read_only_for_others])
def test_read_only_cache(protect: Callable, served: HubServer, fresh_cache: Path) -> None:
    with protect(fresh_cache):
        with pytest.raises(HubError) as caught:
            fetch_weights(REPO, cache_dir=fresh_cache)
        message = str(caught.value)
        assert str(fresh_cache) in message and ('Read-only' in message or 'denied' in message) and '\n' not in message
    assert served.count('GET') == 0
    file = fetch_weights(REPO, cache_dir=fresh_cache)
    with protect(fresh_cache):
        assert fetch_weights(REPO, cache_dir=fresh_cache) == file
        served.stop()
        assert fetch_weights(REPO, cache_dir=fresh_cache) == file


def test_cache_that_is_a_file(served: HubServer, tmp_path: Path) -> None:
    (tmp_path / 'cache').write_text('')
    with pytest.raises(HubError, match='cannot be fetched'):
        fetch_weights(REPO, cache_dir=tmp_path / 'cache')


@pytest.mark.parametrize('room', ['1m', '15m'])
def test_full_disk(room: str, served: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, 'DOWNLOAD_CHUNK_SIZE', 1 << 16)
    _mount('-t', 'tmpfs', '-o', f'size={room}', 'tmpfs', fresh_cache)
    try:
        with pytest.raises(HubError, match='No space left on device') as caught:
            fetch_weights(REPO, cache_dir=fresh_cache)
        assert '\n' not in str(caught.value) and str(fresh_cache) in str(caught.value)
        assert partial_of(fresh_cache) == b''
        assert cached_weights(REPO, cache_dir=fresh_cache) is None
        subprocess.run(['mount', '-o', 'remount,size=40m', fresh_cache], check=True)
        assert fetch_weights(REPO, cache_dir=fresh_cache).read_bytes() == CONTENT
    finally:
        subprocess.run(['umount', fresh_cache], check=True)


@pytest.mark.parametrize('largest', [1, 1_000_000, SIZE - 1])
def test_file_that_cannot_be_written_to_its_end(largest: int, served: HubServer, fresh_cache: Path) -> None:
    """A limit on file sizes fails a write in its middle, as a full disk does."""
    message, _ = result_of(start_fetch(REPO, fresh_cache, largest))
    assert message.startswith('HubError') and 'File too large' in message and str(fresh_cache) in message
    assert partial_of(fresh_cache) == b''
    assert cached_weights(REPO, cache_dir=fresh_cache) is None
    assert fetch_weights(REPO, cache_dir=fresh_cache).read_bytes() == CONTENT
