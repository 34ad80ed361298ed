"""A crash at every system call while a folder or a file is written: old or new is whole at any moment.

Children die (`os._exit`), get Ctrl-C or get an error of the system at the n-th call, before it or after it, for every
n; with an exchange of names and without one: see tests/support/crashes.py.
"""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import crashes
import pytest
from crashes import NEW, OLD, content_of, fill

from coatnet_zoo import files


def write(folder: Path, text: dict[str, str] = NEW) -> None:
    files.write_folder(folder, lambda new: fill(new, text), lambda old: None)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork')
@pytest.mark.parametrize('how', ['exchange', 'renames'])
@pytest.mark.parametrize('crash', ['die', 'interrupt', 'fail'])
@pytest.mark.parametrize('what', ['made folder', 'replaced folder', 'made file', 'replaced file'])
def test_a_crash_at_every_call(what: str, crash: str, how: str, tmp_path: Path) -> None:
    command = [sys.executable, str(Path(crashes.__file__)), str(tmp_path), what, crash, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30


# Several processes in one place.


@pytest.fixture
def at_work(tmp_path: Path) -> Iterator[Callable[[Path], threading.Thread]]:
    """Starts a write that stops in the middle until the test ends."""
    go_on = threading.Event()
    threads = []

    def start(folder: Path) -> threading.Thread:
        writing = threading.Event()

        def slowly(new: Path) -> None:
            fill(new, NEW)
            writing.set()
            go_on.wait(10)

        thread = threading.Thread(target=lambda: files.write_folder(folder, slowly, lambda old: None))
        threads.append(thread)
        thread.start()
        assert writing.wait(10)
        return thread

    yield start
    go_on.set()
    for thread in threads:
        thread.join()
        assert content_of(tmp_path / 'folder') == NEW


def test_a_folder_that_is_being_written_is_no_leftover(tmp_path: Path, at_work: Callable) -> None:
    at_work(tmp_path / 'folder')
    write(tmp_path / 'other')
    (staging,) = (p for p in tmp_path.iterdir() if p.name.startswith('.'))
    assert content_of(staging / 'new' / 'folder') == NEW


def test_equal_process_ids_do_not_meet(tmp_path: Path, at_work: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, 'getpid', lambda: 4711)
    at_work(tmp_path / 'folder')
    write(tmp_path / 'folder', OLD)
    assert content_of(tmp_path / 'folder') == OLD


FOREIGN = {
    'another name': lambda p: (p / '.coatnet-zoo-notes').mkdir(),
    'another content': lambda p: ((p / '.coatnet-zoo-abcd_123').mkdir(), fill(p / '.coatnet-zoo-abcd_123', OLD)),
    'a file': lambda p: (p / '.coatnet-zoo-abcd_123').write_text('mine'),
    'a link': lambda p: ((p / 'x').mkdir(), (p / '.coatnet-zoo-abcd_123').symlink_to(p / 'x')),
    'what old versions left': lambda p: (p / '.folder.4711.replaced').mkdir(),
}


@pytest.mark.parametrize('kind', FOREIGN)
def test_what_is_not_ours_stays(kind: str, tmp_path: Path) -> None:
    FOREIGN[kind](tmp_path)
    before = sorted(tmp_path.rglob('*'))
    write(tmp_path / 'folder')
    assert [p for p in sorted(tmp_path.rglob('*')) if 'folder' not in p.parts[-2:] or p in before] == before


def test_a_place_that_was_taken_meanwhile(tmp_path: Path) -> None:
    """Without an exchange, between the two renames: the other's folder stays, and so does the error."""
    folder = tmp_path / 'folder'

    def taken(new: Path) -> None:
        fill(new, NEW)
        folder.mkdir()
        fill(folder, OLD)

    def refuse(old: Path) -> None:
        raise OSError(errno.EEXIST, 'taken')

    with pytest.raises(OSError, match='taken'):
        files.write_folder(folder, taken, refuse)
    assert content_of(folder) == OLD and [p.name for p in tmp_path.iterdir()] == ['folder']


def test_file_systems_without_locks_and_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*args) -> None:
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(files.fcntl, 'flock', no_locks)
    monkeypatch.setattr(files, '_library', lambda: object())
    leftover = tmp_path / '.coatnet-zoo-abcd_123'
    leftover.mkdir()
    for text in (OLD, NEW):
        write(tmp_path / 'folder', text)
        assert content_of(tmp_path / 'folder') == text
    assert leftover.is_dir()  # nobody can tell whether it is in use


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / 'precious').write_text('old')
    (tmp_path / 'file').symlink_to(tmp_path / 'precious')
    files.write_file(tmp_path / 'file', lambda new: new.write_text('new'))
    assert (tmp_path / 'precious').read_text() == 'old' and (tmp_path / 'file').read_text() == 'new'


def test_permissions_are_those_of_new_files(tmp_path: Path) -> None:
    def private(new: Path) -> None:
        new.write_text('x')
        new.chmod(0o600)

    files.write_file(tmp_path / 'file', private)
    files.write_folder(tmp_path / 'folder', lambda new: private(new / 'x'), lambda old: None)
    (tmp_path / 'plain').mkdir()
    (tmp_path / 'plain' / 'x').write_text('x')
    for ours, theirs in (('file', 'plain/x'), ('folder', 'plain'), ('folder/x', 'plain/x')):
        assert (tmp_path / ours).stat().st_mode == (tmp_path / theirs).stat().st_mode, ours
