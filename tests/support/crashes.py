"""Writes folders and files in children that crash at the n-th call of the system, for every n.

A program of its own, because a process without torch forks much faster: `crashes.py PLACE WHAT CRASH EXCHANGE`. The
program prints how many crashes there were, or fails with the case in which something was lost.
"""

import errno
import os
import pathlib
import sys
from collections.abc import Callable
from pathlib import Path

import coatnet_zoo_command

coatnet_zoo_command.without_models = __name__ == '__main__'

from coatnet_zoo import files  # noqa: E402

# What changes names or content on the disk, or could fail.
CALLS = ('rename', 'replace', 'mkdir', 'rmdir', 'unlink', 'chmod', 'fsync', 'open', 'stat', 'scandir', 'listdir')
OLD, NEW = {'a': 'old', 'b': 'old too'}, {'a': 'new', 'c': 'new too'}


class Crashing:
    """Replaces calls of the system by ones that count, and crash at one of them."""

    def __init__(self, at: int, after: bool, crash: Callable[[], None], exchange: bool) -> None:
        self.at, self.after, self.crash, self.count = at, after, crash, 0
        for name in CALLS:
            setattr(os, name, self.wrapped(getattr(os, name)))
            # Until Python 3.10, pathlib keeps the calls that it found when it was imported.
            if name != 'open' and (kept := getattr(pathlib, '_NormalAccessor', None)):
                setattr(kept, name, staticmethod(getattr(os, name)))
        files._exchange = self.wrapped(files._exchange) if exchange else lambda one, other: False
        files.fcntl.flock = self.wrapped(files.fcntl.flock)

    def wrapped(self, function: Callable) -> Callable:
        def call(*args, **kwargs):
            self.count += 1
            now = self.count == self.at
            if now and not self.after:
                self.crash()
            result = function(*args, **kwargs)
            if now and self.after:
                self.crash()
            return result

        return call


def die() -> None:
    """The process dies, as by `kill -9`."""
    os._exit(9)


def interrupt() -> None:
    """Ctrl-C."""
    raise KeyboardInterrupt


def fail() -> None:
    """An error of the system."""
    raise OSError(errno.EIO, 'Input/output error')


def fill(folder: Path, content: dict[str, str]) -> None:
    """Write files into a folder."""
    for name, text in content.items():
        (folder / name).write_text(text)


def content_of(folder: Path) -> dict[str, str] | None:
    """The files in a folder with their texts, if the folder is there."""
    return {p.name: p.read_text() for p in folder.iterdir()} if folder.is_dir() else None


def text_of(file: Path) -> str | None:
    """The text of a file, if the file is there."""
    return file.read_text() if file.exists() else None


def in_child(action: Callable[[], None]) -> int:
    """The exit code of a child that runs an action: 9 if it died, 0 if the action ended, 1 if it raised an error."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def write_folder(path: Path, text: dict[str, str] = NEW) -> None:
    """Write or replace a folder."""
    files.write_folder(path, lambda new: fill(new, text), lambda old: None)


def write_file(path: Path) -> None:
    """Write or replace a file."""
    files.write_file(path, lambda new: new.write_text('new'))


def main(place: Path, what: str, crash: Callable[[], None], exchange: bool) -> int:
    """The number of crashes that were survived."""
    is_file = what.endswith('file')
    write, read = (write_file, text_of) if is_file else (write_folder, content_of)
    old, new = ('old', 'new') if is_file else (OLD, NEW)
    before = old if what.startswith('replaced') else None
    crashes = 0
    for after in (False, True):
        for at in range(1, 1000):
            case = f'crash={crash.__name__} exchange={exchange} after={after} at={at}'
            where = place / f'{after}-{at}'
            where.mkdir()
            path = where / 'it'
            if is_file and before:
                path.write_text(before)
            elif before:
                path.mkdir()
                fill(path, before)

            def crashing_write(path: Path = path, at: int = at, after: bool = after) -> None:
                crashing = Crashing(at, after, crash, exchange)
                write(path)
                if crashing.count < at:
                    os._exit(77)  # there is no such call any more

            code = in_child(crashing_write)
            if code == 77:
                break
            crashes += 1
            found = read(path)
            if crash is not die or exchange or is_file:
                assert found in (before, new), f'{case}: {found} at once'
            if found != new and crash is not die:
                assert code == 1, f'{case}: the failure was not reported'
            # The next start, in the same place, leaves nothing behind and puts back what was moved.
            write_folder(where / 'other')
            assert read(path) in (before, new), f'{case}: {read(path)} after the next start'
            assert {p.name for p in where.iterdir()} <= {'it', 'other'}, f'{case}: leftovers'
        else:
            raise AssertionError('the calls have no end')
    return crashes


if __name__ == '__main__':
    os.fsync = lambda descriptor: None  # nothing here waits for the disk
    _, _place, _what, _crash, _exchange = sys.argv
    print(main(Path(_place), _what, globals()[_crash], _exchange == 'exchange'))
