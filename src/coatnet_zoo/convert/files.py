"""The check that a path is a regular file. Reading a pipe, a device or a socket might never end."""

import os
from pathlib import Path

from ..errors import CheckpointError, shown


def require_regular(path: str | os.PathLike) -> Path:
    """The path of a regular file, or of a link to one.

    Raises:
        CheckpointError: If the path does not exist, or is not a regular file.
    """
    if not os.path.isfile(path):
        instead = ', but a folder, pipe or device of that name' if os.path.exists(path) else ''
        raise CheckpointError(f'There is no file {shown(path, 500)}{instead}.')
    return Path(path)
