"""What may lie where the cache wants to write: links to files of the user, pipes, folders, garbage."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PRECIOUS = b'the only copy of a thesis'


def _hard_link(path: Path, user: Path) -> None:
    os.link(user / 'thesis', path)


def _folder(path: Path, user: Path) -> None:
    path.mkdir()
    (path / 'thesis').write_bytes(PRECIOUS)


OBSTACLES: dict[str, Callable[[Path, Path], object]] = {
    'a link to a file': lambda path, user: path.symlink_to(user / 'thesis'),
    'a link to a folder': lambda path, user: path.symlink_to(user),
    'a link to nothing': lambda path, user: path.symlink_to(user / 'nothing'),
    'a link to itself': lambda path, user: path.symlink_to(path),
    'a second name of a file': _hard_link,
    'a folder': _folder,
    'a pipe': lambda path, user: os.mkfifo(path),
    'an empty file': lambda path, user: path.touch(),
    'garbage': lambda path, user: path.write_bytes(b'\xff../../\0' * 1000),
}


class User:
    """A folder with files that nobody may change.

    Attributes:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / 'thesis').write_bytes(PRECIOUS)
        self._before = self._state()
        self._theses: list[Path] = []

    def put(self, obstacle: str, path: Path) -> None:
        """Replace whatever is at a path by an obstacle."""
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(path)
        OBSTACLES[obstacle](path, self.folder)
        self._theses = [path / 'thesis'] if obstacle == 'a folder' else []

    def assert_untouched(self) -> None:
        """Nothing of the user's was changed, removed or added, and folders with files in them are still there."""
        assert self._state() == self._before
        assert all(thesis.read_bytes() == PRECIOUS for thesis in self._theses)

    def take_away(self, path: Path) -> None:
        """Remove the obstacle."""
        remove(path)
        self._theses = []

    def _state(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in self.folder.rglob('*')}


def remove(path: Path) -> None:
    """Remove a file, link, pipe or folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise in the main thread if the block takes longer: a pipe that is opened would block for ever."""

    def late(*_: object) -> None:
        raise AssertionError(f'took longer than {seconds} s')

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
