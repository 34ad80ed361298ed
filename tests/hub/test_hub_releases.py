"""A release page that never ends, and obstacles where the converted weights are kept."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from command_line import command
from huggingface_hub import constants
from obstacles import OBSTACLES, User, time_limit
from release_page import CONTENT, ReleasePage, md5

from coatnet_zoo import HubError
from coatnet_zoo.hub import download, fetch_release, release_file, releases, waiting
from coatnet_zoo.registry import COSTS, WEIGHTS

pytest.importorskip('h5py')

NAME = 'coatnet_0.kecam_in1k'
RELEASE, MD5 = WEIGHTS[NAME].release, md5(CONTENT)
LARGEST = 5 * len(CONTENT)


@pytest.fixture
def page(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleasePage]:
    """The release host with a small file; `fresh_cache` is HF_HOME."""
    page = ReleasePage()
    monkeypatch.setattr(constants, 'HF_HOME', str(fresh_cache))
    monkeypatch.setattr(constants, 'HF_HUB_DOWNLOAD_TIMEOUT', 0.3)
    monkeypatch.setattr(releases, 'RELEASE_HOST', page.url)
    monkeypatch.setattr(waiting, '_WAITS', (0.001,))
    monkeypatch.setattr(waiting, '_PROBE_TIMEOUT', 0.5)
    monkeypatch.setattr(download, '_WINDOW', 0.1)
    monkeypatch.setattr(download, '_LEAST', 100)
    monkeypatch.setitem(COSTS, (NAME, 'keras_cv'), (len(CONTENT), 0.0))
    monkeypatch.setitem(WEIGHTS, NAME, dataclasses.replace(WEIGHTS[NAME], md5=MD5))
    yield page
    page.httpd.shutdown()
    page.httpd.server_close()


def fetch() -> str | None:
    """The sentence if the file cannot be fetched."""
    try:
        file = fetch_release(RELEASE, MD5)
    except HubError as e:
        assert '\n' not in str(e)
        return str(e)
    assert file.stat().st_size > 100_000
    return None


def body(*pieces: bytes, headers: str = '', endless: bytes = b'', pause: float = 0.0) -> Callable[[], Iterable[bytes]]:
    def answer() -> Iterator[bytes]:
        yield f'HTTP/1.1 200 OK\r\nConnection: close\r\n{headers}\r\n'.encode()
        yield from pieces
        for _ in itertools.repeat(None, 10_000 if endless else 0):
            time.sleep(pause)
            yield endless

    return answer


# The answers to GET; whether HEAD declares the size; words of the sentence, None if the file arrives.
ANSWERS: dict[str, tuple[Callable[[], Iterable[bytes]], bool, str | None]] = {
    'zeros without end': (body(endless=bytes(4096)), True, 'arrived damaged twice'),
    'zeros without end, of no declared size': (body(endless=bytes(4096)), False, 'sends more than the'),
    'right, then without end': (body(CONTENT, endless=bytes(4096)), True, None),
    'right, of no declared size': (body(CONTENT), False, None),
    'compressed': (body(CONTENT, headers='Content-Encoding: gzip\r\n'), False, 'compresses'),
    'drips': (body(endless=b'x', pause=0.02), True, 'fewer than'),
    'drips of no declared size': (body(endless=b'x', pause=0.02), False, 'fewer than'),
    'a web page': (body(b'<html>'), True, 'after 6 of'),
    'a web page of no declared size': (body(b'<html>'), False, 'arrived damaged twice'),
}


@pytest.mark.parametrize('case', ANSWERS)
def test_answers(case: str, page: ReleasePage, fresh_cache: Path) -> None:
    page.raw, page.declares_size, words = ANSWERS[case]
    start = time.monotonic()
    message = fetch()
    assert time.monotonic() - start < 3.0 and len(page.ranges) <= 3
    assert (message is None) if words is None else (words in message), message
    assert sum(p.stat().st_size for p in fresh_cache.rglob('*') if p.is_file()) <= LARGEST
    page.raw, page.declares_size = None, True
    assert fetch() is None


@pytest.mark.parametrize('length', ['-1', 'abc', '9' * 19, '9' * 5000, str(LARGEST + 1), '0', '1e5'])
def test_lengths(length: str, page: ReleasePage) -> None:
    page.head_length = length
    message = fetch()
    assert message is None or len(message) < 2000
    assert page.ranges in ([], [None], [None, None])
    page.head_length = None
    assert fetch() is None


PLACES = ('', '.sha256', '.h5', '.h5.incomplete', '.lock', 'folder')


@pytest.mark.parametrize('obstacle', OBSTACLES)
@pytest.mark.parametrize('place', PLACES)
def test_obstacles(place: str, obstacle: str, page: ReleasePage, fresh_cache: Path, tmp_path: Path) -> None:
    if (place, obstacle) == ('folder', 'a link to a folder'):
        pytest.skip('who links the folder elsewhere wants it there')
    user = User(tmp_path / 'user')
    file = release_file(RELEASE, MD5)
    path = {'': file, '.sha256': file.with_name(f'{file.name}.sha256'), 'folder': file.parent}.get(place)
    path = path or file.with_suffix(place)
    user.put(obstacle, path)
    with time_limit(5.0):
        for args in (['list'], ['info', NAME], ['verify', NAME], ['pull', NAME]):
            result = command(*args)
            assert result.exit_code in (0, 1)
            assert args[0] in ('list', 'info') or len(result.output.strip().splitlines()) == 1, result.output
    user.assert_untouched()
    if result.exit_code:
        user.take_away(path)
    assert command('pull', NAME).exit_code == 0
    # A file that was put there without a note cannot be verified.
    assert command('verify', NAME).exit_code == (not place and result.exit_code == 0)


@pytest.mark.parametrize('damage', ['flip', 'empty', 'note'])
def test_pull_replaces_what_is_damaged(damage: str, page: ReleasePage) -> None:
    assert fetch() is None
    file = release_file(RELEASE, MD5)
    content = file.read_bytes()
    if damage == 'note':
        file.with_name(f'{file.name}.sha256').write_text('0' * 64)
    else:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if damage == 'flip' else b'')
    assert 'is damaged' in fetch() and command('verify', NAME).exit_code == 1
    assert command('pull', NAME).exit_code == 0 and command('verify', NAME).exit_code == 0
    assert file.read_bytes() == content
