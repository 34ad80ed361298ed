"""Fetching a weights file from the Hugging Face Hub, with one clear sentence for every error.

The cache, its layout and the metadata of a file come from huggingface_hub. This module adds three things. The first is
a reachability check, because huggingface_hub (and so timm) retries for 25 s before reporting that there is no network.
The second is a download that can be resumed after its process has died, and that always ends. The third is a check of
the hash of every file before the file is used.
"""

import errno
import os
from dataclasses import replace
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import HfFileMetadata

from ..errors import HubError
from ..files import CONFIG, SAFETENSORS
from ..registry import short
from .download import download_file, request_of
from .integrity import Stored, check_own, digest_of, is_digest
from .messages import endpoint, sentence
from .snapshots import Repository, is_commit, is_inside
from .waiting import Retries, answer_or_error

# The largest number of seconds for making a connection.
CONNECT_TIMEOUT = 3.0
_MAIN = constants.DEFAULT_REVISION


def cached_weights(
    hf_hub_id: str, filename: str = SAFETENSORS, cache_dir: str | os.PathLike | None = None
) -> Path | None:
    """The local path of a weights file that is in the cache, or None. The Hub is not asked.

    Args:
        hf_hub_id: Repository, `org/name` or `org/name@revision`.
        filename: File in the repository.
        cache_dir: The cache. Default: huggingface_hub's cache.
    """
    repository, revision = _repository(hf_hub_id, cache_dir)
    return repository.find(filename, revision)


def stored_weights(hf_hub_id: str) -> Stored | None:
    """A weights file that is in the cache, with its declared hash, or None. The Hub is not asked.

    Args:
        hf_hub_id: Repository, `org/name` or `org/name@revision`.

    Raises:
        OSError: If the cache has a link to another place instead of the file.
    """
    repository, revision = _repository(hf_hub_id, None)
    file = repository.find(SAFETENSORS, revision)
    return repository.stored(file) if file else None


def fetch_weights(
    hf_hub_id: str,
    filename: str = SAFETENSORS,
    cache_dir: str | os.PathLike | None = None,
    mend: bool = False,
) -> Path:
    """The local path of a weights file on the Hub, downloaded if it is not cached.

    The content of the file has the hash that the Hub declared. The hash of a cached file is computed again.

    Args:
        hf_hub_id: Repository, `org/name` or `org/name@revision`.
        filename: File in the repository. The file must be a safetensors file.
        cache_dir: The cache. Default: huggingface_hub's cache.
        mend: Download a damaged file again instead of raising. The new file replaces the damaged file when complete.

    Raises:
        HubError: If the file is not cached and the Hub cannot be reached, has no such repository or file, or refuses
            access; if the download breaks off, arrives damaged, or cannot be stored; or if the cached file is damaged.
            Without a network, the error (or the cached file) comes within 5 seconds.
    """
    repository, revision = _repository(hf_hub_id, cache_dir)
    repo_id, cache = repository.repo_id, repository.cache
    if not filename.endswith('.safetensors'):
        raise HubError(
            f'{short(hf_hub_id)} names the weights file {short(filename)}, but only .safetensors files are fetched.'
        )
    for what in (filename, revision):
        # Both names become paths in the cache, and both may come from a configuration that somebody else wrote.
        if not is_inside(what):
            raise HubError(f'{short(hf_hub_id)} names {short(what)}, which is not a path inside a repository.')
    try:
        url = hf_hub_url(repo_id, filename, revision=revision)
        file = repository.find(filename, revision)
        cached = repository.stored(file) if file else None
        damaged = mend and cached is not None and cached.wrong_digest() is not None
        if cached and not damaged and is_commit(revision):
            return _sound(cached, hf_hub_id)  # a commit never changes
        answer = _describe(url, f'{repo_id}/{filename}', patient=cached is None or damaged)
        if isinstance(answer, HfFileMetadata):
            stored, checked = _store(answer, repository, filename, revision, mend)
            return stored.file if checked else _sound(stored, hf_hub_id)
        if cached and not damaged:
            return _sound(cached, hf_hub_id)
    except HubError:
        raise
    except Exception as e:  # exceptions of huggingface_hub, of its HTTP client, of the file system
        raise HubError(
            f'{short(filename)} of {short(hf_hub_id)} cannot be fetched from the Hub at {endpoint()} into {cache}: '
            f'{sentence(e)}'
        ) from e
    raise _unreachable(repository, answer, 'damaged' if damaged else 'not') from answer


def _unreachable(repository: Repository, answer: Exception, state: str = 'not') -> HubError:
    return HubError(
        f'{repository.repo_id} is {state} in the cache {repository.cache} and the Hub at {endpoint()} cannot be '
        f'reached ({sentence(answer)}); connect to a network, set HF_ENDPOINT to a mirror, or put the file into the '
        'cache and set HF_HUB_OFFLINE=1.'
    )


def offline_config(hf_hub_id: str, cache_dir: str | os.PathLike | None = None) -> Path | None:
    """The cached `config.json` of a repository, if the Hub cannot be reached; None if the Hub answers.

    huggingface_hub's own request for the file takes 23 s to find that there is no network.

    Args:
        hf_hub_id: Repository, `org/name` or `org/name@revision`.
        cache_dir: The cache. Default: huggingface_hub's cache.

    Raises:
        HubError: If the Hub cannot be reached and the file is not in the cache. The error comes within 5 seconds.
    """
    repository, revision = _repository(hf_hub_id, cache_dir)
    url = hf_hub_url(repository.repo_id, CONFIG, revision=revision)
    answer = _describe(url, f'{repository.repo_id}/{CONFIG}', patient=False)
    if isinstance(answer, (HfFileMetadata, HfHubHTTPError)):
        return None
    if file := repository.find(CONFIG, revision):
        return file
    raise _unreachable(repository, answer) from answer


def _repository(hf_hub_id: str, cache_dir: str | os.PathLike | None) -> tuple[Repository, str]:
    repo_id, _, revision = hf_hub_id.partition('@')
    return Repository(Path(cache_dir or constants.HF_HUB_CACHE), repo_id), revision or _MAIN


def _describe(url: str, name: str, patient: bool) -> HfFileMetadata | Exception:
    """Ask for the metadata of a file. Returns the answer, or the error.

    Args:
        url: Address of the file.
        name: Name of the file, for the log.
        patient: Ask again while the Hub answers that it is busy, and raise if the Hub refuses.
    """

    def ask() -> HfFileMetadata:
        # For the headers, huggingface_hub itself may ask the Hub.
        address, headers = request_of(url)
        return get_hf_file_metadata(address, token=False, headers=headers, timeout=CONNECT_TIMEOUT)

    retries = Retries()
    while True:
        answer = answer_or_error(ask)
        if not isinstance(answer, HfHubHTTPError) or not patient:
            return answer
        retries.wait(answer, name)


def _store(
    described: HfFileMetadata, repository: Repository, filename: str, revision: str, mend: bool
) -> tuple[Stored, bool]:
    """Put a file of the Hub into the cache. Returns the file, and whether its hash has just been checked."""
    commit, digest, checked = described.commit_hash, described.etag, mend
    if not is_commit(commit) or not is_digest(digest) or described.size is None:
        raise OSError('the server declares no hash, size or commit for it, so that it could not be checked')
    file = repository.find(filename, commit)
    stored = replace(repository.stored(file), declared=digest) if file else None
    if stored is None or (mend and stored.wrong_digest()):
        blob = repository.blob(digest)
        with repository.lock(digest):
            if not blob.is_symlink():
                check_own(blob)
            # Another process may already have downloaded the file.
            if not os.path.isfile(blob) or (mend and digest_of(blob, digest) != digest):
                # The address that redirects lead to expires, so every try follows the redirects again.
                url, name = hf_hub_url(repository.repo_id, filename, revision=commit), repository.repo_id
                download_file(url, digest, described.size, blob, f'{name}/{filename}', send_token=True)
                checked = True
            stored = repository.stored(repository.add(filename, commit, digest))
    try:
        repository.refer(revision, commit)
    except OSError as e:
        if e.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):  # a cache may be read-only
            raise
    return stored, checked


def _sound(stored: Stored, hf_hub_id: str) -> Path:
    """The path of the file, if its hash is right."""
    if actual := stored.wrong_digest():
        raise HubError(
            f'The cached {stored.file.name} of {hf_hub_id} is damaged: its hash is {actual}, but the Hub declared '
            f'{stored.declared}; delete it by `rm {stored.content}`, and it is downloaded again when it is next used.'
        )
    return stored.file
