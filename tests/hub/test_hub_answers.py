"""Servers that never end, lie about sizes and ranges, or send nothing of use: every download ends, the next one works.

The real client downloads a file of 256 KiB from the loopback Hub, whose answers are written byte by byte here. Time
limits are shortened, so that a test takes a fraction of a second.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hub_server import Fault, HubServer
from huggingface_hub import constants

from coatnet_zoo import HubError
from coatnet_zoo.hub import cached_weights, download, fetch_weights, waiting

REPO = 'timm/anything'
SAFE = 'model.safetensors'
CONTENT = bytes(range(256)) * 1024
SIZE = len(CONTENT)
TRIES = 2
MANY = 60  # faults that do not run out


@pytest.fixture(autouse=True)
def served(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The Hub with the file; no thread may be left that still listens to it."""
    monkeypatch.setattr(constants, 'HF_HUB_DOWNLOAD_TIMEOUT', 0.3)
    monkeypatch.setattr(waiting, '_WAITS', (0.001,) * TRIES)
    monkeypatch.setattr(waiting, '_PROBE_TIMEOUT', 0.5)
    monkeypatch.setattr(download, '_WINDOW', 0.1)
    monkeypatch.setattr(download, '_LEAST', 100)
    hub.add_repo(REPO, {SAFE: CONTENT})
    yield hub
    end = time.monotonic() + 2.0
    while waiting_threads := [t for t in threading.enumerate() if t.name.startswith('coatnet-zoo')]:
        assert time.monotonic() < end, waiting_threads
        time.sleep(0.01)


Raw = Callable[[int, bytes], Iterable[bytes]]


def head(status: str, *headers: str) -> bytes:
    return '\r\n'.join([f'HTTP/1.1 {status}', 'Connection: close', *headers, '', '']).encode()


def answer(*headers: str, body: Callable[[int, bytes], Iterable[bytes]], status: str = '200 OK') -> Raw:
    """Headers, then a body that depends on the first byte and on the content."""

    def raw(begin: int, content: bytes) -> Iterator[bytes]:
        yield head(status, *headers)
        yield from body(begin, content)

    return raw


def part(begin: int, content: bytes, length: int) -> Iterator[bytes]:
    """An honest answer that is cut short after `length` bytes."""
    yield head('206 Partial', f'Content-Length: {SIZE - begin}', f'Content-Range: bytes {begin}-{SIZE - 1}/{SIZE}')
    yield content[begin : begin + length]


def zeros(*_: object) -> Iterator[bytes]:
    yield from itertools.repeat(bytes(4096))


def drips(piece: bytes, pause: float) -> Callable[..., Iterator[bytes]]:
    def body(*_: object) -> Iterator[bytes]:
        for _ in range(60):
            time.sleep(pause)
            yield piece

    return body


def chunked(begin: int, content: bytes) -> Iterator[bytes]:
    for i in range(0, SIZE, 4096):
        yield b'1000\r\n' + content[i : i + 4096] + b'\r\n'
    while True:
        yield b'1000\r\n' + bytes(4096) + b'\r\n'


def slow_but_real(begin: int, content: bytes) -> Iterator[bytes]:
    for i in range(0, SIZE, SIZE // 8):
        time.sleep(0.05)
        yield content[i : i + SIZE // 8]


def silence(*_: object) -> Iterator[bytes]:
    time.sleep(1.0)
    yield from ()


def without_end_but_right(begin: int, content: bytes) -> Iterator[bytes]:
    yield content
    yield from zeros()


def range_of(content_range: str | None, length: int = SIZE) -> Raw:
    """The first try is cut short at half; what follows answers with this Content-Range."""

    def raw(begin: int, content: bytes) -> Iterator[bytes]:
        if begin == 0:
            yield head('200 OK', f'Content-Length: {SIZE}')
            yield content[: SIZE // 2]
        else:
            headers = [] if content_range is None else [f'Content-Range: {content_range.format(begin=begin)}']
            yield head('206 Partial Content', *headers)
            yield content[begin:]

    return raw


def refused_range(begin: int, content: bytes) -> Iterator[bytes]:
    """The server's file is shorter than what is here already, it says; from its beginning it is whole."""
    if begin:
        yield head('416 Range Not Satisfiable', 'Content-Length: 0')
    else:
        yield head('200 OK', f'Content-Length: {SIZE}')
        yield content if served_once.pop() else content[: SIZE // 2]


served_once: list[bool] = []

# What arrives whole all the same.
FETCHED: dict[str, Raw | list[Raw]] = {
    'longer than declared': answer(f'Content-Length: {SIZE + 9999}', body=lambda b, c: [c, bytes(9999)]),
    'never ends': answer(body=without_end_but_right),
    'never ends, in chunks': answer('Transfer-Encoding: chunked', body=chunked),
    'slow but real': answer(f'Content-Length: {SIZE}', body=slow_but_real),
    '70 KB each try': lambda b, c: part(b, c, 70_000),
    'a wrong total': range_of('bytes {begin}-99/100'),
    'an unknown total': range_of('bytes {begin}-262143/*'),
    'without a length': answer(body=lambda b, c: [c]),
    'identity, said': answer('Content-Encoding: identity', f'Content-Length: {SIZE}', body=lambda b, c: [c]),
    'a length of 100 bytes': [
        answer('Content-Length: 100', body=lambda b, c: [c]),
        lambda b, c: part(b, c, SIZE),
    ],
    'silence, then an answer': [answer(body=silence), lambda b, c: part(b, c, SIZE)],
    'a range that was not asked for': [
        answer('Content-Range: bytes 7-99/100', status='206 Partial Content', body=lambda b, c: [c]),
        answer(body=lambda b, c: [c]),
    ],
}


@pytest.mark.parametrize('case', FETCHED)
def test_what_arrives_all_the_same(case: str, served: HubServer, fresh_cache: Path) -> None:
    raws = FETCHED[case]
    raws = raws if isinstance(raws, list) else [raws] * MANY
    served.faults.extend(Fault(raw=raw) for raw in raws)
    start = time.monotonic()
    assert fetch_weights(REPO, cache_dir=fresh_cache).read_bytes() == CONTENT
    assert time.monotonic() - start < 3.0
    assert served.count('GET') <= 6 and served.sent < 40 * SIZE


def redirect(to: str) -> Raw:
    return answer(f'Location: {to}', 'Content-Length: 0', status='302 Found', body=lambda b, c: [])


# What ends with one sentence: the tries that are made, and words of the sentence.
ENDED: dict[str, tuple[Raw, int, str]] = {
    'zeros without end': (answer(body=zeros), 2, 'arrived damaged twice'),
    'longer, and wrong': (answer(f'Content-Length: {9 * SIZE}', body=zeros), 2, 'arrived damaged twice'),
    'zeros, in chunks': (answer('Transfer-Encoding: chunked', body=lambda b, c: chunked(b, bytes(SIZE))), 2, 'twice'),
    **{
        f'compressed by {coding}': (
            answer(f'Content-Encoding: {coding}', f'Content-Length: {SIZE}', body=lambda b, c: [c]), 1, 'compresses',
        )
        for coding in ('gzip', 'deflate', 'br', 'zstd', 'identity, gzip', 'x')
    },
    'a byte now and then': (answer(body=drips(b'x', 0.02)), TRIES + 1, 'fewer than'),
    'headers, a byte at a time': (lambda b, c: drips(b'x', 0.05)(), TRIES + 1, 'no answer within'),
    'a chunk that is never there': (
        answer('Transfer-Encoding: chunked', body=drips(b'0', 0.05)), TRIES + 1, 'no answer within',
    ),
    'Continue without end': (lambda b, c: itertools.repeat(head('100 Continue')), TRIES + 1, 'no answer within'),
    'one byte further each try': (lambda b, c: part(b, c, 1), TRIES + 1, 'received 1 bytes'),
    '20 KB further each try': (lambda b, c: part(b, c, 20_000), TRIES + 7, ''),
    'nothing': (lambda b, c: [], TRIES + 1, ''),
    'empty': (answer('Content-Length: 0', body=lambda b, c: []), TRIES + 1, 'after 0 of'),
    'half, without ranges': (answer(body=lambda b, c: [c[: SIZE // 2]]), TRIES + 2, ''),
    'another part': (range_of('bytes 5-99/100'), 8, ''),
    'a part that is not named': (range_of(None), 8, ''),
    'a part named in words': (range_of('bytes all/many'), 8, ''),
    'a part with a huge number': (range_of('bytes ' + '9' * 5000 + '-'), 8, ''),
    'redirects to itself': (redirect(f'/{REPO}/resolve/main/{SAFE}'), TRIES * 21 + 21, 'redirects'),
    'a file address': (redirect('file:///etc/passwd'), TRIES + 1, 'file:'),
    **{
        f'a length of {length[:5]}': (answer(f'Content-Length: {length}', body=lambda b, c: [c]), TRIES + 1, '')
        for length in ('-1', 'abc', '9' * 30, '9' * 5000, '1,2', '0x10', '1e5')
    },
    'two lengths': (answer('Content-Length: 1', 'Content-Length: 2', body=lambda b, c: [c]), TRIES + 1, ''),
    **{
        f'status {status}': (answer(status=f'{status} What', body=lambda b, c: []), 1, f'{status}')
        for status in (204, 205, 304, 203, 299)
    },
    '404 without end': (answer(status='404 Not Found', body=zeros), 1, '404'),
    '500 without end': (answer(status='500 Error', body=zeros), TRIES + 1, '500'),
    '500 in gzip': (answer('Content-Encoding: gzip', status='500 Error', body=zeros), TRIES + 1, '500'),
    '416 to the whole': (answer('Content-Length: 0', status='416 No', body=lambda b, c: []), TRIES + 1, '416'),
    **{
        f'Retry-After: {after[:12]}': (
            answer(f'Retry-After: {after}', 'Content-Length: 0', status='429 Slow', body=lambda b, c: []), tries, '429',
        )
        for after, tries in (('301', 1), ('9' * 9, 1), ('9' * 5000, 3), ('-1', 3), ('soon', 3), ('nan', 3))
    },
    'the limit of the Hub': (
        answer('RateLimit: "api";r=0;t=301', 'Content-Length: 0', status='429 Slow', body=lambda b, c: []), 1, '429',
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', ENDED)
def test_what_ends_with_a_sentence(case: str, served: HubServer, fresh_cache: Path) -> None:
    raw, tries, words = ENDED[case]
    served.faults.extend([Fault(raw=raw)] * 200)
    start = time.monotonic()
    assert words in error_of(fresh_cache)
    assert time.monotonic() - start < 3.0
    assert served.count('GET') <= tries, served.count('GET')
    assert cached_weights(REPO, cache_dir=fresh_cache) is None
    assert sum(p.stat().st_size for p in fresh_cache.rglob('*') if p.is_file()) <= SIZE + 100
    served.faults.clear()
    assert fetch_weights(REPO, cache_dir=fresh_cache).read_bytes() == CONTENT


def error_of(cache: Path) -> str:
    with pytest.raises(HubError) as caught:
        fetch_weights(REPO, cache_dir=cache)
    message = str(caught.value)
    assert '\n' not in message and REPO in message and len(message) < 2000
    return message


def described(*headers: str, status: str = '200 OK') -> Raw:
    return answer(*headers, status=status, body=lambda b, c: [])


COMMIT, ETAG, LENGTH = f'X-Repo-Commit: {"a" * 40}', f'ETag: "{"b" * 64}"', f'Content-Length: {SIZE}'
DESCRIPTIONS: dict[str, tuple[Raw, str]] = {
    **{
        f'a size of {size[:5]}': (described(COMMIT, ETAG, f'X-Linked-Size: {size}'), words)
        for size, words in (
            ('-1', 'declares -1 bytes'),
            ('9' * 30, 'at most'),
            ('50000000001', 'at most'),
            ('9' * 5000, ''),
            ('nan', 'declares no hash, size'),
            ('1e9', 'declares no hash, size'),
            ('0x10', 'declares no hash, size'),
        )
    },
    'a length of -1': (described(COMMIT, ETAG, 'Content-Length: -1'), ''),
    'no size': (described(COMMIT, ETAG), 'declares no hash, size'),
    'no hash': (described(COMMIT, LENGTH), 'declares no hash, size'),
    **{
        f'commit {commit[:12]!r}': (described(f'X-Repo-Commit: {commit}', ETAG, LENGTH), 'declares no hash, size')
        for commit in ('', '../../evil', '/etc', 'main', 'A' * 40, 'a' * 39, 'a' * 5000, '.')
    },
    'headers, a byte at a time': (lambda b, c: drips(b'x', 0.05)(), 'no answer within'),
    'headers without end': (lambda b, c: itertools.chain([b'HTTP/1.1 200 OK\r\n'], itertools.repeat(b'x' * 999)), ''),
    'Continue without end': (lambda b, c: itertools.repeat(head('100 Continue')), 'no answer within'),
    'redirects without end': (redirect(f'/{REPO}/resolve/main/{SAFE}'), 'redirects'),
    'no HTTP': (lambda b, c: [b'SSH-2.0-OpenSSH\r\n'], ''),
    'nothing': (lambda b, c: [], 'cannot be reached'),
    'a captive portal': (answer('Content-Type: text/html', body=lambda b, c: [b'<html>']), 'declares no hash'),
    'a wait of a year': (described('Retry-After: 31536000', 'Content-Length: 0', status='503 Busy'), '503'),
}


@pytest.mark.parametrize('case', DESCRIPTIONS)
def test_descriptions_that_end_with_a_sentence(case: str, served: HubServer, fresh_cache: Path) -> None:
    raw, words = DESCRIPTIONS[case]
    served.faults.extend([Fault('HEAD', raw=raw)] * 60)
    start = time.monotonic()
    assert words in error_of(fresh_cache)
    assert time.monotonic() - start < 2.0
    assert served.count('GET') == 0
    assert [p for p in fresh_cache.rglob('*') if p.is_file() and p.suffix != '.lock'] == []


def test_a_part_is_kept_when_the_server_says_it_has_less(served: HubServer, fresh_cache: Path) -> None:
    """Then the download starts again, once."""
    served.faults.extend(
        Fault(raw=raw)
        for raw in (
            lambda b, c: part(b, c, 100_000),
            answer('Content-Length: 0', status='416 No', body=lambda b, c: []),
            lambda b, c: part(b, c, SIZE) if b == 0 else [],
        )
    )
    assert fetch_weights(REPO, cache_dir=fresh_cache).read_bytes() == CONTENT


def test_a_refusal_keeps_what_has_arrived(served: HubServer, fresh_cache: Path) -> None:
    served.faults.append(Fault(raw=lambda b, c: part(b, c, 100_000)))
    served.faults.append(Fault(raw=answer('Content-Encoding: gzip', body=lambda b, c: [c])))
    assert 'compresses' in error_of(fresh_cache)
    fetch_weights(REPO, cache_dir=fresh_cache)
    assert served.bodies == [(100_000, SIZE - 100_000)]
