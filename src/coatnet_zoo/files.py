"""Writing files and folders that are whole at any time, and the names of the files in a model's folder."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

SAFETENSORS = 'model.safetensors'
CONFIG = 'config.json'
CARD = 'README.md'


def write_file(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its destination, then rename it: readers see the old file or the whole new one.

    Args:
        file: The destination.
        write: Writes the content to the path that it is given.

    Raises:
        OSError: If the file cannot be written; an older file of that name stays.
    """
    partial = _beside(file, 'partial')
    try:
        mode = _new_file_mode(partial)
        write(partial)
        partial.chmod(mode)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def write_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Write a folder beside its destination, then rename it; an older folder of that name is replaced.

    Args:
        folder: The destination.
        write: Writes files into the empty folder that it is given.

    Raises:
        OSError: If the folder cannot be written; an older folder of that name stays.
    """
    partial, replaced = _beside(folder, 'partial'), _beside(folder, 'replaced')
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        mode = _new_file_mode(partial / '.mode')
        (partial / '.mode').unlink()
        write(partial)
        for file in partial.iterdir():
            file.chmod(mode)
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
    except BaseException:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        raise
    finally:
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f'.{path.name}.{os.getpid()}.{ending}')


def _new_file_mode(file: Path) -> int:
    """Create a file, and return the permissions that the system gives new files.

    safetensors makes files that only their owner can read, which a shared cache or a served folder must not have.
    """
    file.touch()
    return file.stat().st_mode
