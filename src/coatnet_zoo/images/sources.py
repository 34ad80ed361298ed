"""The image files that a user means by files, folders and patterns."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from coatnet_zoo_runtime import register_heic

from ..errors import shown

_NO_PHOTOS = {'HDF5', 'GRIB', 'BUFR'}  # data, for which Pillow has no reader of its own


def find_images(sources: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Find the files that a user means, without opening the files.

    Args:
        sources: Files; folders, which stand for all images in them and in their subfolders; and patterns such as
            'photos/*.jpg', which stand for files and folders. Hidden files are left out, except if they are named.

    Returns:
        The files, each of them once, and a message for every source without a file. Folders and patterns are sorted
        by name, numbers by value. A source that does not exist and is no pattern is a file.
    """
    Image.init()
    register_heic()
    kinds = {kind for kind in (*Image.OPEN, 'MPO') if Image.MIME.get(kind, 'image/').startswith('image/')} - _NO_PHOTOS
    endings = tuple(ending for ending, kind in Image.EXTENSION.items() if kind in kinds)
    files: dict[Path, None] = {}
    problems: list[str] = []
    for source in sources:
        is_pattern = glob.has_magic(source) and not os.path.lexists(source)
        matches = sorted(glob.glob(source, recursive=True), key=_natural_key) if is_pattern else [source]
        if not matches:
            problems.append(f'No file matches {shown(source)}.')
        for match in matches:
            found = [match]
            if os.path.isdir(match):
                every = files_in(match, problems, (*endings, '.heic', '.heif'))
                found = [file for file in every if file.lower().endswith(endings)]
                if heic := len(every) - len(found):
                    problems.append(f'{shown(match)} has HEIC images ({heic}): pip install pillow-heif.')
                elif not found:
                    problems.append(f'The folder {shown(match)} has no images.')
            files.update(dict.fromkeys(map(Path, found)))
    return list(files), problems


def _natural_key(name: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split('([0-9]+)', name.lower())]


def files_in(folder: str, problems: list[str], endings: tuple[str, ...] = ('',)) -> list[str]:
    """The files in a folder and its subfolders whose names have one of the endings, sorted like `find_images`.

    Hidden files are left out. Links are followed, as timm does. `problems` gets a message for an unreadable folder.
    """
    return sorted(_walk(folder, problems, endings), key=_natural_key)


def _walk(folder: str, problems: list[str], endings: tuple[str, ...]) -> Iterator[str]:
    def note(error: OSError) -> None:
        problems.append(f'The folder {shown(error.filename)} cannot be read: {error.strerror}.')

    seen = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, onerror=note, followlinks=True):
        places = {os.path.realpath(os.path.join(parent, name)): name for name in folders if not name.startswith('.')}
        folders[:] = [name for place, name in places.items() if place not in seen]  # links may form a circle
        seen.update(places)
        for name in names:
            if name.lower().endswith(endings) and not name.startswith('.'):
                yield os.path.join(parent, name)
