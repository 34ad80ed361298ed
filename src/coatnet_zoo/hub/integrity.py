"""Whether a file in huggingface_hub's cache is the one that the Hub declared.

That cache names the content of every file after the hash that the Hub declares for it: the SHA-256 of large files
(LFS and Xet), the hash of the git object of small ones. `snapshots/COMMIT/FILE` is a link to `blobs/HASH`. So what was
declared is known without a network, for as long as the file is there.
"""

import os
import re
from pathlib import Path

from huggingface_hub.utils.sha import git_hash, sha_fileobj

_SHA256 = re.compile('[0-9a-f]{64}')
_GIT = re.compile('[0-9a-f]{40}')


def is_digest(text: str | None) -> bool:
    """Whether this is a hash that content can be compared with, in hexadecimal digits."""
    return bool(text and (_SHA256.fullmatch(text) or _GIT.fullmatch(text)))


def declared_digest(file: str | os.PathLike) -> str | None:
    """The hash that the Hub declared for a file of the cache, or that was noted when a file was made.

    Args:
        file: In `snapshots`, or one that `note_digest` was called for.

    Returns:
        Hexadecimal digits; None if the cache keeps no hash, as it is where the file system has no symbolic links.
    """
    note = _note_of(file)
    if note.is_file():
        declared = note.read_text().strip()
    else:
        declared = os.path.basename(os.readlink(file)) if os.path.islink(file) else None
    return declared if is_digest(declared) else None


def _note_of(file: str | os.PathLike) -> Path:
    return Path(f'{os.fspath(file)}.sha256')


def note_digest(file: str | os.PathLike, content: str | os.PathLike) -> None:
    """Note the SHA-256 that a file is to have, beside it.

    Args:
        file: Need not exist yet.
        content: A file of the same content.
    """
    _note_of(file).write_text(digest_of(content, '0' * 64))


def digest_of(file: str | os.PathLike, like: str) -> str:
    """The hash of a file's content, at about 1 GB/s.

    Args:
        file: Any file.
        like: A hash of the kind to compute.
    """
    if _GIT.fullmatch(like):
        return git_hash(Path(file).read_bytes())
    with open(file, 'rb') as f:
        return sha_fileobj(f).hex()


def blob_of(file: str | os.PathLike) -> Path:
    """Where the cache keeps the content of a file in `snapshots`."""
    file = Path(file)
    return Path(os.path.normpath(file.parent / os.readlink(file))) if file.is_symlink() else file


def is_damaged(file: str | os.PathLike) -> bool:
    """Whether the content of a file of the cache is not what the Hub declared; False if it declared nothing."""
    declared = declared_digest(file)
    return declared is not None and digest_of(file, declared) != declared
