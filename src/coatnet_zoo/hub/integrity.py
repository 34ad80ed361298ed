"""Checking that a file has the hash that its source declared, and that a file may be written to."""

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from ..errors import shown
from ..slow import say_if_slow

_DIGEST = re.compile('[0-9a-f]{64}|[0-9a-f]{40}')


@dataclass(frozen=True)
class Stored:
    """A file of weights on this machine.

    Attributes:
        file: The file to load.
        content: The file that has the content: `file` itself, or the blob that `file` links to.
        declared: The hash that the source declared; None if no hash was kept.
    """

    file: Path
    content: Path
    declared: str | None

    def wrong_digest(self) -> str | None:
        """The hash of the content if the hash differs from the declared hash, else None.

        Raises:
            OSError: If the content cannot be read.
        """
        if self.declared is None:
            return None
        actual = digest_of(self.content, self.declared)
        return None if actual == self.declared else actual


def is_digest(text: str | None) -> bool:
    """Whether a text is a hash that the Hub declares, in hexadecimal digits.

    The hash is the SHA-256 for large files (LFS and Xet), and the hash of the git object for small files.
    """
    return bool(text and _DIGEST.fullmatch(text))


def digest_of(file: str | os.PathLike, like: str) -> str:
    """The hash of the content of a file, at about 1 GB/s.

    Args:
        file: A regular file.
        like: A hash of the kind to compute: SHA-256, the hash of a git object, or MD5.

    Raises:
        OSError: If the file cannot be read, or is a folder, a device or a pipe.
    """
    if os.path.lexists(file) and not os.path.isfile(file):
        raise OSError(f'{file} is not a regular file')
    with say_if_slow(f'Checking {shown(file)}'), open(file, 'rb') as f:
        if len(like) == 40:
            digest = hashlib.sha1(b'blob %d\0' % os.fstat(f.fileno()).st_size, usedforsecurity=False)
        else:
            digest = hashlib.sha256() if len(like) == 64 else hashlib.md5(usedforsecurity=False)
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_own(file: Path) -> None:
    """Refuse to write to a file that this package cannot have made.

    Args:
        file: The file, which need not exist.

    Raises:
        OSError: If the path is a link, a second name of another file, a folder, a device or a pipe.
    """
    try:
        status = os.lstat(file)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise OSError(f'{file} is a link or no regular file, so it is not written to; move it away')
