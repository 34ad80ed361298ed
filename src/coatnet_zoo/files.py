"""Writing files and folders that are complete at any time, and the names of the files in a model's folder.

Every file or folder is written in a staging folder next to the destination, and then renamed to the destination. A
staging folder is hidden, has a unique name, and is locked by the process that uses the staging folder. A process that
dies leaves its staging folder and loses the lock. The next process that writes to the same place restores the files
that the dead process had moved away, and removes the rest.
"""

import contextlib
import ctypes
import errno
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows; staging folders of dead processes then stay
    fcntl = None

SAFETENSORS = 'model.safetensors'
CONFIG = 'config.json'
CARD = 'README.md'

_STAGING = '.coatnet-zoo-'
_IS_STAGING = re.compile(re.escape(_STAGING) + '[a-z0-9_]{8}')
# The parts of a staging folder: its lock, the new content, the old content that was moved away, content to remove.
_LOCK, _NEW, _OLD, _TRASH = _PARTS = ('lock', 'new', 'old', 'trash')
# The errors of a system or a file system that cannot exchange two names.
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


def write_file(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file next to its destination, then rename the file: readers see the old file or the complete new file.

    A symbolic link of that name is replaced; the file that the link points to stays as it is.

    Args:
        file: The destination.
        write: Called with a path; writes the content to the path.

    Raises:
        OSError: If the file cannot be written; an older file of that name stays.
    """
    with _staging(file.parent) as staging:
        new = staging / _NEW / file.name
        write(new)
        new.chmod(_new_file_mode(staging))
        if os.path.lexists(file):
            _sync(new)
        os.replace(new, file)


def write_folder(folder: Path, write: Callable[[Path], object], check_old: Callable[[Path], object]) -> None:
    """Write a folder next to its destination, then rename the folder to the destination.

    An older folder of that name is replaced in one step if the system can exchange two names. Otherwise the older
    folder is moved away first; if the process dies in between, the next call restores the older folder. Missing
    parents of the destination are made.

    Args:
        folder: The destination.
        write: Called with an empty folder; writes files into the folder.
        check_old: Called with the old file or folder just before the replacement; raises if the old content must stay.

    Raises:
        OSError: If the folder cannot be written; an older folder of that name stays.
    """
    with _parents(folder), _staging(folder.parent) as staging:
        new, old = staging / _NEW / folder.name, staging / _OLD / folder.name
        new.mkdir()
        write(new)
        mode = _new_file_mode(staging)
        for file in new.iterdir():
            file.chmod(mode)
        if not os.path.lexists(folder):
            os.rename(new, folder)
            return
        check_old(folder)
        # After a power cut, the old or the new folder has to be on the disk.
        for path in (*new.iterdir(), new, new.parent):
            _sync(path)
        if not _exchange(new, folder):
            old.parent.mkdir()
            os.rename(folder, old)
            os.rename(new, folder)
        _sync(folder.parent)


def open_regular(file: str | os.PathLike) -> BinaryIO:
    """Open a regular file for reading. A pipe or a device may have no end, or never answer.

    Raises:
        OSError: If the file is not a regular file, or cannot be opened.
    """
    binary, at_once = getattr(os, 'O_BINARY', 0), getattr(os, 'O_NONBLOCK', 0)  # Windows; elsewhere
    descriptor = os.open(file, os.O_RDONLY | binary | at_once)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, 'not a regular file', os.fspath(file))
    return open(descriptor, 'rb')


@contextlib.contextmanager
def _parents(path: Path) -> Iterator[None]:
    """Make the missing parents of a path, and remove them again if the `with` block fails."""
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


@contextlib.contextmanager
def _staging(parent: Path) -> Iterator[Path]:
    """A new staging folder, with an empty folder for the new content. Finishes the leftovers of dead processes."""
    for leftover in [entry.path for entry in os.scandir(parent) if _IS_STAGING.fullmatch(entry.name)]:
        # Another process may use or finish the staging folder, or this process may not change the staging folder.
        with contextlib.suppress(OSError):
            _finish_leftover(Path(leftover))
    staging, lock = _make_staging(parent)
    try:
        (staging / _NEW).mkdir()
        yield staging
    finally:
        try:
            _finish(staging)
        finally:
            os.close(lock)


def _make_staging(parent: Path) -> tuple[Path, int]:
    while True:
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=parent))
        lock = _lock(staging, needed=False)
        if lock is not None:  # otherwise another process has just taken it for a leftover
            return staging, lock


def _lock(staging: Path, needed: bool) -> int | None:
    """Lock a staging folder for this process.

    Args:
        staging: The folder.
        needed: Raise an `OSError` if the file system has no locks, instead of continuing without a lock.

    Returns:
        A descriptor, which holds the lock until it is closed; None if another process has or had the folder.
    """
    file = staging / _LOCK
    try:
        lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, 'no locks', file)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), file.stat()):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        if not needed:
            return lock
        os.close(lock)
        raise
    os.close(lock)
    return None


def _finish_leftover(staging: Path) -> None:
    if staging.is_symlink() or not staging.is_dir() or not set(os.listdir(staging)) <= set(_PARTS):
        return
    lock = _lock(staging, needed=True)
    if lock is not None:
        try:
            _finish(staging)
        finally:
            os.close(lock)


def _finish(staging: Path) -> None:
    """Restore old content that has no successor, then remove a staging folder that this process has locked."""
    old = staging / _OLD
    if old.exists():
        for moved in old.iterdir():
            place = staging.parent / moved.name
            if not os.path.lexists(place):
                try:
                    os.rename(moved, place)
                except OSError as e:
                    raise OSError(e.errno, f'{e.strerror}; the old content is in {moved}', str(place)) from e
        # Content that is only partly removed must never be restored.
        os.rename(old, staging / _TRASH)
    shutil.rmtree(staging, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step. Returns False, and does nothing, if the system cannot exchange names."""
    names = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == 'darwin':
            failed = _library().renamex_np(*names, 2)  # RENAME_SWAP
        elif sys.platform == 'linux':
            here = -100  # AT_FDCWD
            failed = _library().renameat2(here, names[0], here, names[1], 2)  # RENAME_EXCHANGE
        else:
            return False
    except AttributeError:  # a C library from before these functions
        return False
    if failed and (code := ctypes.get_errno()) not in _CANNOT:
        raise OSError(code, os.strerror(code), str(one), None, str(other))
    return not failed


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _sync(path: Path) -> None:
    """Write the content of a file, or the names in a folder, to the disk."""
    is_folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        # Not every system can sync folders.
        if not is_folder:
            raise


def _new_file_mode(staging: Path) -> int:
    """The permissions that the system gives new files, read from the lock file.

    safetensors makes files that only their owner can read. Other users must be able to read a shared cache.
    """
    return (staging / _LOCK).stat().st_mode
