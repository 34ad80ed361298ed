"""Files and folders that appear complete or not at all, and the names of the files in a model's folder."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

SAFETENSORS, CONFIG, CARD = 'model.safetensors', 'config.json', 'README.md'

_PREFIX = '.coatnet-zoo-'


def write_file(file: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a path beside a file, then rename: readers see the old file or the complete new file.

    A symbolic link of that name is replaced; the file that the link points to stays as it is.

    Raises:
        OSError: If the file cannot be written; an older file of that name stays.
    """
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=file.parent) as staging:
        new = Path(staging, 'new', file.name)
        new.parent.mkdir()
        write(new)
        _share(new)
        os.replace(new, file)


def write_folder(folder: Path, write: Callable[[Path], object], check_old: Callable[[Path], object]) -> None:
    """Call `write` with an empty folder beside a destination, then rename it. Missing parents are made.

    If the destination exists in the end, and `check_old` does not raise for it, files are replaced one by one.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder = Path(os.path.realpath(folder.parent), folder.name)
    # The highest missing folder: missing parents appear together with the folder.
    top = next(path for path in (folder, *folder.parents) if path.parent.exists())
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=top.parent) as staging:
        new = Path(staging, folder.relative_to(top.parent))
        new.mkdir(parents=True)
        write(new)
        files = list(new.iterdir())
        for file in files:
            _share(file)
        if os.path.lexists(folder):
            check_old(folder)
            for file in files:
                os.replace(file, folder / file.name)
        else:
            os.rename(Path(staging, top.name), top)


def _share(file: Path) -> None:
    """Give a file the permissions of new files, as its folder has them: safetensors writes for the owner only."""
    file.chmod(file.parent.stat().st_mode & 0o666)
