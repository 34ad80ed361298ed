"""The check that a path is a regular file. Reading a pipe, a device or a socket might never end."""

import os
from pathlib import Path
from stat import S_ISREG

from ..errors import CheckpointError, shown


def require_regular(path: str | os.PathLike) -> Path:
    """The path of a regular file, or of a link to one.

    Raises:
        CheckpointError: If the path does not exist, or is not a regular file.
    """
    path = Path(path)
    try:
        is_regular = S_ISREG(path.stat().st_mode)
    except (OSError, ValueError) as e:
        raise CheckpointError(f'There is no file {shown(path, 500)}.') from e
    if not is_regular:
        raise CheckpointError(f'There is no file {shown(path, 500)}, but a folder, pipe or device of that name.')
    return path
