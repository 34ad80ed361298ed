"""Everything that can go wrong on the way from the Hub, by the real client: retry, resume or one clear sentence.

After every failure the next good try has to succeed. The fault table in docs/hub.md is what these tests say.
"""

import hashlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.numpy
from hub_server import Fault, HubServer
from huggingface_hub import constants

from coatnet_zoo import HubError
from coatnet_zoo.hub import cached_weights, fetch_weights, waiting

np = pytest.importorskip('numpy')

REPO = 'timm/anything'
SAFE = 'model.safetensors'
PIECE = 1 << 16  # what the client writes at a time
CONTENT = safetensors.numpy.save({'w': np.random.default_rng(0).standard_normal(1 << 18, dtype=np.float32)})
SIZE = len(CONTENT)


@pytest.fixture
def served(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The Hub with a file of 1 MB; the client's waits are short and its pieces small."""
    monkeypatch.setattr(constants, 'DOWNLOAD_CHUNK_SIZE', PIECE)
    monkeypatch.setattr(constants, 'HF_HUB_DOWNLOAD_TIMEOUT', 1)
    monkeypatch.setattr(waiting, '_WAITS', (0.1, 0.1, 0.1))
    hub.add_repo(REPO, {SAFE: CONTENT})
    return hub


def assert_fetched(cache: Path) -> Path:
    file = fetch_weights(REPO, cache_dir=cache)
    assert file.read_bytes() == CONTENT
    assert file.resolve().name == hashlib.sha256(CONTENT).hexdigest()
    assert not list(cache.rglob('*.incomplete'))
    return file


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(HubError) as caught:
        call()
    message = str(caught.value)
    assert '\n' not in message and REPO in message
    return message


def assert_nothing_usable(cache: Path) -> None:
    assert cached_weights(REPO, cache_dir=cache) is None
    assert not [p for p in cache.glob('**/blobs/*') if p.suffix != '.incomplete']


# What passes: no error at all.

PASSING = {
    'HEAD 429': [Fault('HEAD', 429)] * 2,
    'HEAD 500': [Fault('HEAD', 500)] * 2,
    'HEAD 503': [Fault('HEAD', 503)] * 2,
    'GET 429': [Fault('GET', 429)],
    'GET 500': [Fault('GET', 500)],
    'GET 503': [Fault('GET', 503), Fault('GET', 503)],
    'cut': [Fault(body='cut', after=300_000)],
    'cut twice': [Fault(body='cut', after=300_000), Fault(body='cut', after=200_000)],
    'stall': [Fault(body='stall', after=300_000)],
    'flip': [Fault(body='flip', after=300_000)],
    'cut, then flip': [Fault(body='cut', after=300_000), Fault(body='flip', after=10)],
}


@pytest.mark.parametrize('case', PASSING)
def test_faults_that_pass(case: str, served: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_waiting(monkeypatch)
    served.faults.extend(PASSING[case])
    assert_fetched(fresh_cache)
    assert served.faults == []
    # Nothing is asked for twice but what was lost with a piece, or damaged.
    resumed = [start for start, _ in served.bodies[1:]]
    if 'flip' in case:
        assert resumed[-1] == 0
    elif served.bodies[1:]:
        assert all(200_000 < start < SIZE for start in resumed), served.bodies
        assert sum(sent for _, sent in served.bodies) < SIZE + 2 * PIECE


def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make waits of the clients short; the seconds that were to be waited."""
    waits: list[float] = []
    sleep = time.sleep

    def short(seconds: float) -> None:
        import threading

        if threading.current_thread() is threading.main_thread():
            waits.append(seconds)
            seconds = min(seconds, 0.05)
        sleep(seconds)

    monkeypatch.setattr(time, 'sleep', short)
    return waits


@pytest.mark.parametrize('method', ['HEAD', 'GET'])
def test_retry_after_is_waited_for(
    method: str, served: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = _no_waiting(monkeypatch)
    served.faults.extend([Fault(method, 429, {'Retry-After': '7'})] * 2)
    assert_fetched(fresh_cache)
    assert any(7 <= wait <= 8 for wait in waits), waits


def test_waits_grow(served: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, '_WAITS', (1.0, 2.0, 4.0))
    waits = _no_waiting(monkeypatch)
    served.faults.extend([Fault('GET', 500)] * 3)
    assert_fetched(fresh_cache)
    assert waits == [1.0, 2.0, 4.0]


# What does not pass: one sentence, and the next good try succeeds.

LASTING = {
    'HEAD 401': ([Fault('HEAD', 401)] * 2, ('401', 'HF_TOKEN')),
    'HEAD 403': ([Fault('HEAD', 403)] * 2, ('403', 'HF_TOKEN')),
    'HEAD 404': ([Fault('HEAD', 404)] * 2, ('404',)),
    'HEAD 429': ([Fault('HEAD', 429)] * 9, ('429',)),
    'HEAD 503': ([Fault('HEAD', 503)] * 9, ('503',)),
    'GET 401': ([Fault('GET', 401)], ('401', 'HF_TOKEN')),
    'GET 403': ([Fault('GET', 403)], ('403', 'HF_TOKEN')),
    'GET 404': ([Fault('GET', 404)], ('404',)),
    'GET 429': ([Fault('GET', 429)] * 9, ('429',)),
    'GET 500': ([Fault('GET', 500)] * 9, ('500',)),
    'stall': ([Fault(body='stall', after=0)] * 9, (SAFE,)),
    'flip': ([Fault(body='flip', after=300_000)] * 2, ('arrived damaged twice', 'thrown away')),
}


@pytest.mark.parametrize('case', LASTING)
def test_faults_that_last(case: str, served: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_waiting(monkeypatch)
    monkeypatch.setattr(constants, 'HF_HUB_DOWNLOAD_TIMEOUT', 0.2)
    faults, words = LASTING[case]
    served.faults.extend(faults)
    message = error_of(lambda: fetch_weights(REPO, cache_dir=fresh_cache))
    assert all(word in message for word in words), message
    assert_nothing_usable(fresh_cache)
    served.faults.clear()
    assert_fetched(fresh_cache)


@pytest.mark.parametrize('status', [401, 403, 404, 429, 500, 503])
def test_cached_file_needs_no_sound_hub(status: int, served: HubServer, fresh_cache: Path) -> None:
    file = assert_fetched(fresh_cache)
    served.faults.append(Fault('HEAD', status))
    start = time.monotonic()
    assert fetch_weights(REPO, cache_dir=fresh_cache) == file
    assert time.monotonic() - start < 1.0 and served.faults == []


def test_connection_refused(served: HubServer, fresh_cache: Path) -> None:
    served.stop()
    start = time.monotonic()
    message = error_of(lambda: fetch_weights(REPO, cache_dir=fresh_cache))
    assert time.monotonic() - start < 5.0
    assert 'cannot be reached' in message and 'refused' in message
    served.start()
    file = assert_fetched(fresh_cache)
    served.stop()
    assert fetch_weights(REPO, cache_dir=fresh_cache) == file


def test_dns_failure(served: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, 'Name or service not known')

    with monkeypatch.context() as patch:
        patch.setattr(socket, 'getaddrinfo', getaddrinfo)
        message = error_of(lambda: fetch_weights(REPO, cache_dir=fresh_cache))
        assert 'cannot be reached' in message and 'Name or service not known' in message
    assert_fetched(fresh_cache)


def test_refused_in_the_middle(served: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_waiting(monkeypatch)
    served.die_after = 300_000
    error_of(lambda: fetch_weights(REPO, cache_dir=fresh_cache))
    assert_nothing_usable(fresh_cache)
    served.die_after = None
    served.start()
    assert_fetched(fresh_cache)
    assert 200_000 < served.bodies[-1][0] <= 300_000


def test_server_without_ranges(served: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the file is downloaded anew instead of appended to."""
    _no_waiting(monkeypatch)
    served.ranges = False
    served.faults.append(Fault(body='cut', after=300_000))
    assert_fetched(fresh_cache)
    assert [start for start, _ in served.bodies] == [0, 0]


@pytest.mark.parametrize('etag', ['../../evil', 'not-a-hash', 'd41d8cd98f00b204e9800998ecf8427e'])
def test_server_that_declares_no_hash(
    etag: str, served: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('hub_server.digest', lambda file: etag)
    message = error_of(lambda: fetch_weights(REPO, cache_dir=fresh_cache))
    assert 'declares no hash' in message
    assert served.count('GET') == 0


def test_small_files_are_declared_by_their_git_hash(
    served: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = hashlib.sha1(b'blob %d\0' % SIZE + CONTENT).hexdigest()
    monkeypatch.setattr('hub_server.digest', lambda file: git)
    file = fetch_weights(REPO, cache_dir=fresh_cache)
    assert file.read_bytes() == CONTENT and file.resolve().name == git
    served.add_repo(REPO, {SAFE: CONTENT[:-1]})
    assert 'arrived damaged twice' in error_of(lambda: fetch_weights(f'{REPO}@main', cache_dir=fresh_cache / 'other'))


# What is in the cache.


@pytest.mark.parametrize('change', ['flip', 'truncate', 'append', 'empty'])
@pytest.mark.parametrize('online', [True, False])
def test_damaged_cache_is_not_used_in_silence(change: str, online: bool, served: HubServer, fresh_cache: Path) -> None:
    blob = assert_fetched(fresh_cache).resolve()
    content = bytearray(CONTENT)
    content[500_000] ^= 1
    damaged = {'flip': bytes(content), 'truncate': CONTENT[:-1], 'append': CONTENT + b'\0', 'empty': b''}[change]
    blob.write_bytes(damaged)
    if not online:
        served.stop()
    message = error_of(lambda: fetch_weights(REPO, cache_dir=fresh_cache))
    assert 'damaged' in message and f'`rm {blob}`' in message
    assert blob.read_bytes() == damaged
    os.unlink(blob)  # the advice
    served.start()
    assert_fetched(fresh_cache)


def test_damage_is_noticed_in_a_new_revision_of_the_same_file(served: HubServer, fresh_cache: Path) -> None:
    blob = assert_fetched(fresh_cache).resolve()
    blob.write_bytes(CONTENT[:-1])
    served.add_repo(REPO, {SAFE: CONTENT, 'README.md': b'new'})
    assert 'damaged' in error_of(lambda: fetch_weights(REPO, cache_dir=fresh_cache))


def test_partial_file_that_is_damaged_or_too_long(served: HubServer, fresh_cache: Path) -> None:
    blobs = fresh_cache / 'models--timm--anything' / 'blobs'
    blobs.mkdir(parents=True)
    for partial in (b'\0' * 1000, CONTENT[:-5] + b'wrong', CONTENT + b'more'):
        (blobs / f'{hashlib.sha256(CONTENT).hexdigest()}.incomplete').write_bytes(partial)
        assert_fetched(fresh_cache).resolve().unlink()


@pytest.mark.parametrize(
    'filename', ['../x.safetensors', '/etc/x.safetensors', 'a/../../x.safetensors', '..\\x.safetensors']
)
def test_path_tricks_in_filenames(filename: str, served: HubServer, fresh_cache: Path) -> None:
    message = error_of(lambda: fetch_weights(REPO, filename, fresh_cache))
    assert 'not a path inside a repository' in message
    assert served.requests == []


@pytest.mark.parametrize('revision', ['../../../x', '/etc', 'a/../../b'])
def test_path_tricks_in_revisions(revision: str, served: HubServer, fresh_cache: Path) -> None:
    error_of(lambda: fetch_weights(f'{REPO}@{revision}', cache_dir=fresh_cache))
    assert served.requests == []
    assert list(fresh_cache.iterdir()) == []


# Revisions, mirrors, tokens.


def test_pinned_revision_that_is_cached_asks_nobody(served: HubServer, fresh_cache: Path) -> None:
    commit = served.commit(REPO)
    file = fetch_weights(f'{REPO}@{commit}', cache_dir=fresh_cache)
    served.add_repo(REPO, {SAFE: b'newer'})
    served.requests.clear()
    assert fetch_weights(f'{REPO}@{commit}', cache_dir=fresh_cache) == file
    assert served.requests == []


def test_new_commit_of_main_is_downloaded(served: HubServer, fresh_cache: Path) -> None:
    old = assert_fetched(fresh_cache)
    served.add_repo(REPO, {SAFE: b'newer'})
    new = fetch_weights(REPO, cache_dir=fresh_cache)
    assert new.read_bytes() == b'newer' and old.read_bytes() == CONTENT


def test_private_repository_needs_and_gets_the_token(
    served: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.token = 'hf_secret'
    message = error_of(lambda: fetch_weights(REPO, cache_dir=fresh_cache))
    assert '401' in message and 'HF_TOKEN' in message
    monkeypatch.setenv('HF_TOKEN', 'hf_wrong')
    assert '401' in error_of(lambda: fetch_weights(REPO, cache_dir=fresh_cache))
    monkeypatch.setenv('HF_TOKEN', 'hf_secret')
    served.tokens.clear()
    assert_fetched(fresh_cache)
    assert set(served.tokens) == {'Bearer hf_secret'}
    assert 'hf_secret' not in message


def test_token_does_not_leave_the_hub(served: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served.token, served.cdn = 'hf_secret', True
    monkeypatch.setenv('HF_TOKEN', 'hf_secret')
    served.faults.append(Fault('GET', 503))
    assert_fetched(fresh_cache)
    seen = {('/cdn/' in path): token for (_, path), token in zip(served.requests, served.tokens, strict=True)}
    assert seen == {False: 'Bearer hf_secret', True: None}
