"""Fetching a file by the real huggingface_hub client from a Hub on the loopback interface, and what can go wrong.

Every failure is one line, and after every failure the next good attempt succeeds.
"""

import hashlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import timm
from children import result_of, start_fetch
from hub_server import Fault, HubServer
from huggingface_hub import constants
from huggingface_hub.utils import _http

from coatnet_zoo import HubError
from coatnet_zoo.hub import cached_weights, fetch_weights

REPO = 'timm/anything'
SAFE = 'model.safetensors'
CONTENT = safetensors.numpy.save({'w': np.random.default_rng(0).standard_normal(1 << 18, dtype=np.float32)})
DIGEST = hashlib.sha256(CONTENT).hexdigest()
LIMIT = 6.0  # seconds for an error without a network


@pytest.fixture
def served(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The Hub with a file of 1 MB; huggingface_hub does not wait between its attempts."""
    monkeypatch.setattr(_http.time, 'sleep', lambda seconds: None)
    hub.add_repo(REPO, {SAFE: CONTENT})
    return hub


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def assert_fetched(cache: Path) -> Path:
    file = fetch_weights(REPO, cache_dir=cache)
    assert file.read_bytes() == CONTENT and file.resolve().name == DIGEST
    assert not list(cache.rglob('*.incomplete'))
    return file


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(HubError) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable() and len(message) < 2000
    return message


def fetch_error(cache: Path) -> str:
    """The error of fetching the file, which leaves nothing that could be taken for the file."""
    message = error_of(lambda: fetch_weights(REPO, cache_dir=cache))
    assert REPO in message
    assert cached_weights(REPO, cache_dir=cache) is None
    assert not [blob for blob in cache.glob('**/blobs/*') if blob.suffix != '.incomplete']
    return message


# What the Hub answers.


@pytest.mark.parametrize('method, status', [('HEAD', 429), ('HEAD', 500), ('HEAD', 503), ('GET', 429)])
def test_trouble_that_passes(method: str, status: int, served: HubServer, fresh_cache: Path) -> None:
    served.faults.extend([Fault(method, status)] * 3)
    assert_fetched(fresh_cache)
    assert served.faults == []


def test_a_broken_connection(served: HubServer, fresh_cache: Path) -> None:
    """Some versions of huggingface_hub go on where it ended."""
    served.faults.append(Fault(body='cut'))
    with suppress(HubError):
        fetch_weights(REPO, cache_dir=fresh_cache)
    assert_fetched(fresh_cache)


@pytest.mark.parametrize(
    'status, headers, words',
    [
        (401, {}, ('401', 'HF_TOKEN', 'hf auth login')),
        (403, {'X-Error-Code': 'GatedRepo'}, ('403', 'gated', 'HF_TOKEN')),
        (404, {'X-Error-Code': 'RepoNotFound'}, ('404', 'Repository Not Found')),
        (404, {'X-Error-Code': 'EntryNotFound'}, ('404', 'Entry Not Found', SAFE)),
        (429, {}, ('429', 'wait five minutes')),
        (500, {}, ('500',)),
        (503, {}, ('503',)),
    ],
)
@pytest.mark.parametrize('method', ['HEAD', 'GET'])
def test_trouble_that_lasts(
    method: str, status: int, headers: dict[str, str], words: tuple[str, ...], served: HubServer, fresh_cache: Path
) -> None:
    served.faults.extend([Fault(method, status, headers)] * 30)
    message = fetch_error(fresh_cache)
    assert all(word in message for word in words), message
    served.faults.clear()
    file = assert_fetched(fresh_cache)
    served.faults.append(Fault('HEAD', status, headers))
    assert fetch_weights(REPO, cache_dir=fresh_cache) == file  # a cached file needs no sound Hub
    assert served.faults == []


def test_missing_repository_file_and_revision(served: HubServer, fresh_cache: Path) -> None:
    for repo, file, words in (
        ('timm/nothing', SAFE, 'Repository Not Found'),
        (REPO, 'other.safetensors', 'Entry Not Found'),
        (f'{REPO}@v2', SAFE, 'Revision Not Found'),
    ):
        message = error_of(lambda repo=repo, file=file: fetch_weights(repo, file, fresh_cache))
        assert words in message and repo in message and file in message


@pytest.mark.parametrize('repo', ['', 'a', 'a/b/c', '../a', 'a b/c', 'a/b@../x', 'x' * 5000, 'a\nb/c', 'a/b@\udcff'])
def test_odd_repositories(repo: str, served: HubServer, fresh_cache: Path) -> None:
    assert cached_weights(repo, cache_dir=fresh_cache) is None
    error_of(lambda: fetch_weights(repo, cache_dir=fresh_cache))
    assert not [p for p in fresh_cache.rglob('*') if p.is_file() and p.suffix == '.safetensors']


# Networks.


def test_connection_refused(served: HubServer, fresh_cache: Path) -> None:
    served.stop()
    with time_limit(1.0):
        message = fetch_error(fresh_cache)
    assert 'cannot be reached' in message and 'refused' in message
    for word in (str(fresh_cache), served.url, 'HF_ENDPOINT', 'HF_HUB_ETAG_TIMEOUT'):
        assert word in message
    served.start()
    file = assert_fetched(fresh_cache)
    served.stop()
    assert fetch_weights(REPO, cache_dir=fresh_cache) == file


def test_black_hole(served: HubServer, fresh_cache: Path) -> None:
    """A Hub that never answers, within the default time limit: an error, or the cached file."""
    file = assert_fetched(fresh_cache)
    served.silent = True
    with time_limit(LIMIT), ThreadPoolExecutor() as pool:
        cached = pool.submit(fetch_weights, REPO, cache_dir=fresh_cache)
        assert 'no answer within 5 s' in fetch_error(fresh_cache / 'empty')
        assert cached.result() == file


def test_name_look_up_that_hangs(served: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(socket, 'getaddrinfo', lambda *args, **kwargs: end.wait(60.0))
        with time_limit(LIMIT):
            assert 'no answer within 5 s' in fetch_error(fresh_cache)
        end.set()
    assert_fetched(fresh_cache)


def test_slow_hub(hub: HubServer, fresh_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """6 s for every answer, and a user who waits 30 s: our weights load, and another model of timm's does, too."""
    monkeypatch.setenv('HF_HUB_ETAG_TIMEOUT', '30')
    monkeypatch.setattr(constants, 'HF_HUB_ETAG_TIMEOUT', 30)
    hub.delay = 6.0
    hub.add_repo(REPO, {SAFE: CONTENT})
    timm.models.save_for_hf(timm.create_model('test_resnet'), tmp_path, safe_serialization=True)
    hub.add_repo('me/resnet', tmp_path)
    with ThreadPoolExecutor() as pool:
        resnet = pool.submit(timm.create_model, 'hf-hub:me/resnet', pretrained=True, cache_dir=fresh_cache)
        assert_fetched(fresh_cache / 'other')
        assert resnet.result().num_classes == 1000


def test_offline(served: HubServer, fresh_cache: Path) -> None:
    message = result_of(start_fetch(REPO, fresh_cache, HF_HUB_OFFLINE='1'))
    for word in ('HubError', REPO, str(fresh_cache), 'not in the cache', 'unset it once', 'HF_HUB_CACHE'):
        assert word in message
    assert 'connect to a network' not in message and served.requests == []
    file = assert_fetched(fresh_cache)
    served.requests.clear()
    assert result_of(start_fetch(REPO, fresh_cache, HF_HUB_OFFLINE='1')) == str(file)
    assert served.requests == []


# Hashes.


def test_download_that_arrives_damaged(served: HubServer, fresh_cache: Path) -> None:
    served.faults.append(Fault(body='flip'))
    assert_fetched(fresh_cache)  # by the second attempt
    served.faults.extend([Fault(body='flip')] * 2)
    message = fetch_error(fresh_cache / 'other')
    assert 'arrived damaged twice and was thrown away' in message and DIGEST in message
    assert_fetched(fresh_cache / 'other')


@pytest.mark.parametrize('damaged', [CONTENT[:-1] + b'?', CONTENT[:-1], b''], ids=['flipped', 'truncated', 'empty'])
@pytest.mark.parametrize('mend', [True, False])
def test_damaged_cache(damaged: bytes, mend: bool, served: HubServer, fresh_cache: Path) -> None:
    """It is never used. Without a network nothing is deleted."""
    blob = assert_fetched(fresh_cache).resolve()
    blob.write_bytes(damaged)
    served.stop()
    message = error_of(lambda: fetch_weights(REPO, cache_dir=fresh_cache, mend=mend))
    assert ('is damaged in the cache' if mend else f'`rm {blob}`') in message and blob.read_bytes() == damaged
    served.start()
    if mend:
        assert fetch_weights(REPO, cache_dir=fresh_cache, mend=True).read_bytes() == CONTENT
    else:
        assert 'is damaged' in error_of(lambda: fetch_weights(REPO, cache_dir=fresh_cache))
        blob.unlink()  # the advice
    assert_fetched(fresh_cache)
    assert fetch_weights(REPO, cache_dir=fresh_cache, mend=True).resolve() == blob and served.count('GET') == 2


def test_mending_shared_content(served: HubServer, fresh_cache: Path) -> None:
    """huggingface_hub may keep the content elsewhere in the cache under another hash."""
    blob = assert_fetched(fresh_cache).resolve()
    shared = fresh_cache / 'blobs' / 'ab' / ('ab' * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    assert fetch_weights(REPO, cache_dir=fresh_cache).resolve() == shared
    shared.write_bytes(b'damaged')
    assert 'is damaged' in error_of(lambda: fetch_weights(REPO, cache_dir=fresh_cache))
    assert fetch_weights(REPO, cache_dir=fresh_cache, mend=True).read_bytes() == CONTENT


def test_small_files_have_their_git_hash(served: HubServer, fresh_cache: Path, monkeypatch) -> None:
    git = hashlib.sha1(b'blob %d\0' % len(CONTENT) + CONTENT).hexdigest()
    monkeypatch.setattr('hub_server.digest', lambda file: git)
    assert fetch_weights(REPO, cache_dir=fresh_cache).resolve().name == git
    served.add_repo(REPO, {SAFE: CONTENT[:-1]})
    assert 'arrived damaged' in error_of(lambda: fetch_weights(REPO, cache_dir=fresh_cache / 'other'))


# Revisions and tokens.


def test_revisions(served: HubServer, fresh_cache: Path) -> None:
    """A cached file costs one request, a pinned one none. A new commit is downloaded."""
    pinned = f'{REPO}@{served.commit(REPO)}'
    file = assert_fetched(fresh_cache)
    served.requests.clear()
    assert assert_fetched(fresh_cache) == file and [method for method, _ in served.requests] == ['HEAD']
    served.add_repo(REPO, {SAFE: b'newer'})
    assert fetch_weights(pinned, cache_dir=fresh_cache) == file and len(served.requests) == 1
    assert fetch_weights(REPO, cache_dir=fresh_cache).read_bytes() == b'newer'


def test_private_repository(served: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served.token, served.cdn = 'hf_secret', True
    for token in ('', 'hf_wrong'):
        monkeypatch.setenv('HF_TOKEN', token)
        message = fetch_error(fresh_cache)
        assert '401' in message and 'HF_TOKEN' in message and 'hf_wrong' not in message
    monkeypatch.setenv('HF_TOKEN', 'hf_secret')
    served.tokens.clear()
    served.requests.clear()
    assert_fetched(fresh_cache)
    # The token is not sent to the host that the Hub sends downloads to.
    seen = {('/cdn/' in path): token for (_, path), token in zip(served.requests, served.tokens, strict=True)}
    assert seen == {False: 'Bearer hf_secret', True: None}


def test_token_that_is_not_ascii(served: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HF_TOKEN', 'hf_sécret')
    message = fetch_error(fresh_cache)
    assert 'the token of HF_TOKEN' in message and 'not ASCII' in message and 'sécret' not in message


# Disks and processes.


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody can write to the folder. Permissions do not keep root from writing, but a mount does."""
    if os.geteuid() != 0:
        folders = [folder, *(p for p in folder.rglob('*') if p.is_dir())]
        for path in folders:
            path.chmod(0o555)
        yield
        for path in folders:
            path.chmod(0o755)
        return
    if subprocess.run(['mount', '--bind', folder, folder], capture_output=True).returncode != 0:
        pytest.skip('mounting a file system is not permitted here')
    try:
        subprocess.run(['mount', '-o', 'remount,bind,ro', folder], check=True)
        yield
    finally:
        subprocess.run(['umount', folder], check=True)


def test_read_only_cache(served: HubServer, fresh_cache: Path) -> None:
    with read_only(fresh_cache):
        message = error_of(lambda: fetch_weights(REPO, cache_dir=fresh_cache))
        assert str(fresh_cache) in message and ('denied' in message or 'Read-only' in message)
    file = assert_fetched(fresh_cache)
    with read_only(fresh_cache):
        assert fetch_weights(REPO, cache_dir=fresh_cache) == file


@pytest.mark.parametrize('largest', [1, len(CONTENT) - 1])
def test_full_disk(largest: int, served: HubServer, fresh_cache: Path) -> None:
    """A limit on file sizes fails a write in its middle, as a full disk does."""
    message = result_of(start_fetch(REPO, fresh_cache, largest))
    assert message.startswith('HubError') and 'File too large' in message and str(fresh_cache) in message
    assert cached_weights(REPO, cache_dir=fresh_cache) is None
    assert_fetched(fresh_cache)


def test_two_processes_at_once(served: HubServer, fresh_cache: Path) -> None:
    processes = [start_fetch(REPO, fresh_cache) for _ in range(2)]
    (path,) = {result_of(process) for process in processes}
    assert Path(path).read_bytes() == CONTENT
    assert_fetched(fresh_cache)
