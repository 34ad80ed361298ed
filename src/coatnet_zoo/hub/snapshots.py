"""The layout of huggingface_hub's cache: where the files of a repository are, and how a file is added.

`blobs/HASH` is the content of a file, named by the hash that the Hub declares. `snapshots/COMMIT/FILE` is a link to the
blob, and `refs/REVISION` holds the commit of a branch or tag. As long as the link exists, the declared hash is known
without a network. The content of a repository cannot change the declared hash. Damaged entries count as missing.
"""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub.file_download import are_symlinks_supported
from huggingface_hub.utils import WeakFileLock

from ..files import write_file
from .integrity import Stored, check_own, is_digest

_COMMIT = re.compile('[0-9a-f]{40}')


@dataclass(frozen=True)
class Repository:
    """The part of the cache that belongs to a repository.

    Attributes:
        cache: The cache of huggingface_hub.
        repo_id: The repository, `org/name`.
    """

    cache: Path
    repo_id: str

    @property
    def folder(self) -> Path:
        """The folder of the repository."""
        return self.cache / '--'.join(['models', *self.repo_id.split('/')])

    def blob(self, digest: str) -> Path:
        """The path of the content with a hash, whether or not the file exists."""
        return self.folder / 'blobs' / digest

    def find(self, filename: str, revision: str) -> Path | None:
        """The path of a file that is in the cache, or None.

        Args:
            filename: File in the repository.
            revision: Commit, branch or tag.
        """
        if not is_inside(filename) or not is_inside(revision):
            return None
        commit = revision if is_commit(revision) else self._commit_of(revision)
        file = self.folder / 'snapshots' / (commit or '') / filename
        return file if commit and os.path.isfile(file) else None

    def stored(self, file: Path) -> Stored:
        """The content of a file that `find` has found, and its declared hash.

        Raises:
            OSError: If the file is a link to a place outside the blobs of this repository.
        """
        if not file.is_symlink():
            return Stored(file, file, None)  # the file system has no links
        blob = file.parent / os.readlink(file)
        blobs = self.folder / 'blobs'
        if not is_digest(blob.name) or os.path.realpath(blob.parent) != os.path.realpath(blobs):
            raise OSError(f'{file} is a link to {os.path.normpath(blob)}, which is not in {blobs}; remove the link')
        return Stored(file, self.blob(blob.name), blob.name)

    @contextmanager
    def lock(self, digest: str) -> Iterator[None]:
        """Keep other processes, and huggingface_hub, away from the content with a hash."""
        lock = self.cache / '.locks' / self.folder.name / f'{digest}.lock'
        self._make_folder(lock.parent)
        self._make_folder(self.blob(digest).parent)
        check_own(lock)
        with WeakFileLock(lock):
            yield

    def add(self, filename: str, commit: str, digest: str) -> Path:
        """Link a content under its name in a snapshot. Returns the path.

        Raises:
            OSError: If the link cannot be written, or the path is taken.
        """
        file, blob = self.folder / 'snapshots' / commit / filename, self.blob(digest)
        self._make_folder(file.parent)
        if not file.is_symlink():
            check_own(file)
        if not are_symlinks_supported(self.cache):
            os.replace(blob, file)
            return file
        link = file.with_name(f'.{file.name}.{secrets.token_hex(8)}')
        os.symlink(os.path.relpath(blob, file.parent), link)
        try:
            os.replace(link, file)
        finally:
            with suppress(FileNotFoundError):
                link.unlink()
        return file

    def refer(self, revision: str, commit: str) -> None:
        """Note the commit of a branch or tag.

        Raises:
            OSError: If the note cannot be written.
        """
        if not is_commit(revision) and self._commit_of(revision) != commit:
            reference = self.folder / 'refs' / revision
            self._make_folder(reference.parent)
            write_file(reference, lambda partial: partial.write_text(commit))

    def _commit_of(self, revision: str) -> str | None:
        reference = self.folder / 'refs' / revision
        try:
            if not os.path.isfile(reference) or reference.stat().st_size > len('\r\n') + 40:
                return None
            commit = reference.read_bytes().decode('ascii', 'replace').strip()
        except OSError:
            return None
        return commit if is_commit(commit) else None

    def _make_folder(self, folder: Path) -> None:
        """Make a folder in the cache, without following links, because a link may lead to another user's files."""
        for part in (folder, *folder.parents):
            if part in (self.folder, self.cache):
                break
            if part.is_symlink():
                raise OSError(f'{part} is a link, so nothing is written there; remove the link')
        folder.mkdir(parents=True, exist_ok=True)


def is_commit(text: str | None) -> bool:
    """Whether a text is the hash of a commit, in hexadecimal digits."""
    return bool(text and _COMMIT.fullmatch(text))


def is_inside(path: str) -> bool:
    """Whether a name is a path inside a repository, so that the path stays inside the cache, too."""
    pure = PurePosixPath(path)
    return bool(pure.parts) and not ('\\' in path or '\0' in path or pure.is_absolute() or '..' in pure.parts)
