"""Fetching a file by the real huggingface_hub client from a Hub on the loopback interface, and what can go wrong.

Every failure is one line, and after every failure the next good attempt succeeds.
"""

import hashlib
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hub_server import Fault, HubServer
from huggingface_hub import constants
from huggingface_hub.utils import _http
from long_tests import slow

from coatnet_zoo import HubError
from coatnet_zoo.hub import fetch_weights
from coatnet_zoo.hub.fetch import cached_weights

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


@pytest.mark.parametrize(
    'status, headers, words',
    [
        (401, {}, ('401', 'HF_TOKEN', 'hf auth login')),
        (403, {'X-Error-Code': 'GatedRepo'}, ('403', 'gated', 'HF_TOKEN')),
        (404, {'X-Error-Code': 'RepoNotFound'}, ('404', 'Repository Not Found')),
        (404, {'X-Error-Code': 'EntryNotFound'}, ('404', 'Entry Not Found', SAFE)),
        (404, {'X-Error-Code': 'RevisionNotFound'}, ('404', 'Revision Not Found')),
        (429, {}, ('429', 'wait five minutes')),
        (500, {}, ('500',)),
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
    served.add_repo(REPO, {SAFE: CONTENT + b' '})
    served.faults.extend([Fault('GET', status, headers)] * 30)
    assert fetch_weights(REPO, cache_dir=fresh_cache) == file  # nor does the file before a newer one


@pytest.mark.parametrize('repo', ['', 'a', 'a/b/c', '../a', 'a b/c', 'a/b@../x', 'x' * 5000, 'a\nb/c', 'a/b@\udcff'])
def test_odd_repositories(repo: str, served: HubServer, fresh_cache: Path) -> None:
    assert cached_weights(repo, cache_dir=fresh_cache) is None
    error_of(lambda: fetch_weights(repo, cache_dir=fresh_cache))
    assert not [p for p in fresh_cache.rglob('*') if p.is_file() and p.suffix == '.safetensors']


# Networks.


def test_connection_refused(served: HubServer, fresh_cache: Path) -> None:
    served.stop()
    start = time.monotonic()
    message = fetch_error(fresh_cache)
    assert time.monotonic() - start < 1.0
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
    start = time.monotonic()
    with ThreadPoolExecutor() as pool:
        cached = pool.submit(fetch_weights, REPO, cache_dir=fresh_cache)
        assert 'timed out' in fetch_error(fresh_cache / 'empty')
        assert cached.result() == file
    assert time.monotonic() - start < LIMIT


@pytest.mark.parametrize('delay, too_short', [(1.0, 0.3), pytest.param(6.0, 5.0, marks=slow)])
def test_the_time_limit_of_the_user(
    delay: float, too_short: float, hub: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a Hub that takes that many seconds for every answer."""
    hub.add_repo(REPO, {SAFE: CONTENT})
    hub.delay = delay
    monkeypatch.setenv('HF_HUB_ETAG_TIMEOUT', 'set')
    monkeypatch.setattr(constants, 'HF_HUB_ETAG_TIMEOUT', too_short)
    assert 'timed out' in fetch_error(fresh_cache)
    monkeypatch.setattr(constants, 'HF_HUB_ETAG_TIMEOUT', 30)
    assert_fetched(fresh_cache)


def test_offline(served: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = assert_fetched(fresh_cache)
    served.requests.clear()
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert assert_fetched(fresh_cache) == file
    message = fetch_error(fresh_cache / 'empty')
    for word in (str(fresh_cache / 'empty'), 'not in the cache', 'unset it once', 'HF_HUB_CACHE', 'hf download'):
        assert word in message
    with pytest.raises(HubError, match=r'coatnet-zoo pull coatnet_nano\.sw_in1k --dest'):
        fetch_weights('timm/coatnet_nano_rw_224.sw_in1k', cache_dir=fresh_cache / 'empty')
    assert 'connect to a network' not in message and served.requests == []


# Hashes.


def test_download_that_arrives_damaged(served: HubServer, fresh_cache: Path) -> None:
    served.faults.append(Fault(body='flip'))
    message = fetch_error(fresh_cache)
    assert 'arrived damaged and was discarded' in message and DIGEST in message
    assert_fetched(fresh_cache)


@pytest.mark.parametrize('damaged', [CONTENT[:-1] + b'?', CONTENT[:-1], b''], ids=['flipped', 'truncated', 'empty'])
@pytest.mark.parametrize('mend', [True, False])
def test_damaged_cache(damaged: bytes, mend: bool, served: HubServer, fresh_cache: Path) -> None:
    """It is never used. Without a network nothing is deleted."""
    blob = assert_fetched(fresh_cache).resolve()
    blob.write_bytes(damaged)
    served.stop()
    message = error_of(lambda: fetch_weights(REPO, cache_dir=fresh_cache, mend=mend))
    assert ('is damaged in the cache' if mend else f'delete {blob}') in message and blob.read_bytes() == damaged
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


# Revisions, tokens and disks.


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
    assert 'the token of HF_TOKEN' in message and 'non-ASCII' in message and 'sécret' not in message


def test_cache_that_cannot_be_made(served: HubServer, fresh_cache: Path) -> None:
    (fresh_cache / 'file').touch()
    message = error_of(lambda: fetch_weights(REPO, cache_dir=fresh_cache / 'file' / 'cache'))
    assert str(fresh_cache) in message and 'Not a directory' in message


def test_full_disk(served: HubServer, fresh_cache: Path) -> None:
    """A limit on file sizes fails a write in its middle, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) - 1, limits[1]))
    try:
        message = fetch_error(fresh_cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 'File too large' in message and str(fresh_cache) in message
    assert_fetched(fresh_cache)
