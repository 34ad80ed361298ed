"""Hashes: whether a file is the one that its source declared.

huggingface_hub's cache names the content of every file after the hash that the Hub declares for it: the SHA-256 of
large files (LFS and Xet), and the hash of the git object of small files. `snapshots/COMMIT/FILE` is a link to
`blobs/HASH`. So the declared hash is known without a network, for as long as the file is there.
"""

import hashlib
import os
import re
from pathlib import Path

from huggingface_hub.utils.sha import git_hash, sha_fileobj

_SHA256 = re.compile('[0-9a-f]{64}')
_GIT = re.compile('[0-9a-f]{40}')
_MD5 = re.compile('[0-9a-f]{32}')


def is_digest(text: str | None) -> bool:
    """Whether a text is a hash that the Hub declares, in hexadecimal digits."""
    return bool(text and (_SHA256.fullmatch(text) or _GIT.fullmatch(text)))


def declared_digest(file: str | os.PathLike) -> str | None:
    """The hash that the Hub declared for a file of the cache, or that was noted when a file was made.

    Args:
        file: In `snapshots`, or one that `note_digest` was called for.

    Returns:
        Hexadecimal digits; None if the cache keeps no hash, because the file system has no symbolic links.
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
    """Note the SHA-256 of a file beside the file.

    Args:
        file: Need not exist yet.
        content: A file of the same content.
    """
    _note_of(file).write_text(digest_of(content, '0' * 64))


def digest_of(file: str | os.PathLike, like: str) -> str:
    """The hash of the content of a file, at about 1 GB/s.

    Args:
        file: Any file.
        like: A hash of the kind to compute: SHA-256, that of a git object, or MD5.
    """
    if _GIT.fullmatch(like):
        return git_hash(Path(file).read_bytes())
    with open(file, 'rb') as f:
        if not _MD5.fullmatch(like):
            return sha_fileobj(f).hex()
        md5 = hashlib.md5(usedforsecurity=False)
        while chunk := f.read(1 << 20):
            md5.update(chunk)
        return md5.hexdigest()


def blob_of(file: str | os.PathLike) -> Path:
    """Where the cache keeps the content of a file in `snapshots`."""
    file = Path(file)
    return Path(os.path.normpath(file.parent / os.readlink(file))) if file.is_symlink() else file


def is_damaged(file: str | os.PathLike) -> bool:
    """Whether the content of a file of the cache differs from what the Hub declared; False if nothing was declared."""
    declared = declared_digest(file)
    return declared is not None and digest_of(file, declared) != declared
