"""Hashes: whether a file is the one that its source declared. And whether a file may be written to at all."""

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

_DIGEST = re.compile('[0-9a-f]{64}|[0-9a-f]{40}')


@dataclass(frozen=True)
class Stored:
    """A file of weights on this machine.

    Attributes:
        file: What is loaded.
        content: The file that has the content: `file` itself, or the blob that `file` is a link to.
        declared: The hash that the source declared; None if none was kept.
    """

    file: Path
    content: Path
    declared: str | None

    def wrong_digest(self) -> str | None:
        """The hash of the content if it is not the declared one, else None.

        Raises:
            OSError: If the content cannot be read.
        """
        if self.declared is None:
            return None
        actual = digest_of(self.content, self.declared)
        return None if actual == self.declared else actual


def is_digest(text: str | None) -> bool:
    """Whether a text is a hash that the Hub declares, in hexadecimal digits.

    That is the SHA-256 for large files (LFS and Xet), and the hash of the git object for small files.
    """
    return bool(text and _DIGEST.fullmatch(text))


def digest_of(file: str | os.PathLike, like: str) -> str:
    """The hash of the content of a file, at about 1 GB/s.

    Args:
        file: A regular file.
        like: A hash of the kind to compute: SHA-256, that of a git object, or MD5.

    Raises:
        OSError: If the file cannot be read, or is a folder, a device or a pipe.
    """
    if os.path.lexists(file) and not os.path.isfile(file):
        raise OSError(f'{file} is not a regular file')
    with open(file, 'rb') as f:
        if len(like) == 40:
            digest = hashlib.sha1(b'blob %d\0' % os.fstat(f.fileno()).st_size, usedforsecurity=False)
        else:
            digest = hashlib.sha256() if len(like) == 64 else hashlib.md5(usedforsecurity=False)
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_own(file: Path) -> None:
    """Refuse to write to what was not made here.

    Args:
        file: Need not exist.

    Raises:
        OSError: If it is a link, a second name of another file, a folder, a device or a pipe.
    """
    try:
        status = os.lstat(file)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise OSError(f'{file} is a link or no regular file, so it is not written to; move it away')
