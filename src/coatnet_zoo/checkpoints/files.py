"""Which files are opened at all: regular ones. A pipe, a device or a socket could be without an end."""

import os
from pathlib import Path
from stat import S_ISREG

from ..errors import CheckpointError, shown


def require_regular(path: str | os.PathLike) -> Path:
    """The path of a regular file, or of a link to one.

    Raises:
        CheckpointError: If there is no such file, or something else has its name.
    """
    path = Path(path)
    try:
        is_regular = S_ISREG(path.stat().st_mode)
    except (OSError, ValueError) as e:
        raise CheckpointError(f'There is no file {shown(path, 500)}.') from e
    if not is_regular:
        raise CheckpointError(f'There is no file {shown(path, 500)}, but a folder, pipe or device of that name.')
    return path
