"""Getting a weights file from the Hugging Face Hub, with one clear sentence for everything that can go wrong.

The cache, requests and retries are huggingface_hub's. This module adds a reachability check, because huggingface_hub
(and so timm) retries for 25 s before it admits that there is no network; downloads that survive their process; and a
check of the hash of every file before the file is used.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import HfFileMetadata, repo_folder_name
from huggingface_hub.utils import WeakFileLock

from ..errors import HubError
from ..files import SAFETENSORS
from .download import download_file
from .integrity import blob_of, declared_digest, digest_of, is_digest

# Seconds. The first bounds a connection; the second also bounds a name look-up, which no HTTP client does.
CONNECT_TIMEOUT = 3.0
_PROBE_TIMEOUT = 4.0
_Answer = TypeVar('_Answer')


def cached_weights(
    hf_hub_id: str, filename: str = SAFETENSORS, cache_dir: str | os.PathLike | None = None
) -> Path | None:
    """The local path of a weights file that is in the cache, or None. The Hub is not asked.

    Args:
        hf_hub_id: Repository, `org/name` or `org/name@revision`.
        filename: File in the repository.
        cache_dir: huggingface_hub's cache unless given.
    """
    cached = try_to_load_from_cache(**_where(hf_hub_id, filename), cache_dir=_cache(cache_dir))
    return Path(cached) if isinstance(cached, str) else None


def fetch_weights(hf_hub_id: str, filename: str = SAFETENSORS, cache_dir: str | os.PathLike | None = None) -> Path:
    """The local path of a weights file on the Hub, downloaded if it is not cached.

    The content of the file has the hash that the Hub declared. The hash of a cached file is computed anew.

    Args:
        hf_hub_id: Repository, `org/name` or `org/name@revision`.
        filename: File in the repository; must be a safetensors file.
        cache_dir: huggingface_hub's cache unless given.

    Raises:
        HubError: If the file is not cached and the Hub cannot be reached, has no such repository or file, or refuses
            access; if the download breaks off, arrives damaged, or cannot be stored; or if the cached file is damaged.
            Without a network, the error (or the cached file) comes within 5 seconds.
    """
    if not filename.endswith('.safetensors'):
        raise HubError(f'{hf_hub_id} names the weights file {filename!r}, but only .safetensors files are fetched.')
    where, cache = _where(hf_hub_id, filename), _cache(cache_dir)
    for what in filter(None, (filename, where['revision'])):
        # Both become paths in the cache, and a configuration that somebody else wrote may name them.
        if '\\' in what or PurePosixPath(what).is_absolute() or '..' in PurePosixPath(what).parts:
            raise HubError(f'{hf_hub_id} names {what!r}, which is not a path inside a repository.')
    try:
        cached = cached_weights(hf_hub_id, filename, cache)
        if cached and where['revision'] == cached.parent.name:
            return _sound(cached, hf_hub_id)  # a commit never changes
        answer = _ask(hf_hub_url(**where))
        if isinstance(answer, HfHubHTTPError) and not cached:
            # The Hub is there. It may be busy; anything else is raised at once.
            answer = get_hf_file_metadata(hf_hub_url(**where), timeout=CONNECT_TIMEOUT, retry_on_errors=True)
        if isinstance(answer, HfFileMetadata):
            stored, checked = _store(answer, where, cache)
            return stored if checked else _sound(stored, hf_hub_id)
        if cached:
            return _sound(cached, hf_hub_id)
    except HubError:
        raise
    except Exception as e:  # of this client, of the HTTP client below it, of the file system
        raise HubError(
            f'{filename} of {hf_hub_id} cannot be fetched from the Hub at {constants.ENDPOINT} into {cache}: '
            f'{sentence(e)}'
        ) from e
    raise HubError(
        f'{where["repo_id"]} is not in the cache {cache} and the Hub at {constants.ENDPOINT} cannot be reached '
        f'({sentence(answer)}); connect to a network, set HF_ENDPOINT to a mirror, or put the file into the cache and '
        'set HF_HUB_OFFLINE=1.'
    ) from answer


def _where(hf_hub_id: str, filename: str) -> dict[str, Any]:
    repo_id, _, revision = hf_hub_id.partition('@')
    return dict(repo_id=repo_id, filename=filename, revision=revision or None)


def _cache(cache_dir: str | os.PathLike | None) -> Path:
    return Path(cache_dir or constants.HF_HUB_CACHE)


def _ask(url: str) -> HfFileMetadata | Exception:
    """Ask for the metadata of a file once. Returns the answer (maybe an HfHubHTTPError), or why there is none."""
    return answer_or_error(lambda: get_hf_file_metadata(url, timeout=CONNECT_TIMEOUT))


def answer_or_error(request: Callable[[], _Answer]) -> _Answer | Exception:
    """What a request returns or raises, or a TimeoutError after 4 seconds. That also bounds a name look-up."""
    answer: list[_Answer | Exception] = [TimeoutError(f'no answer within {_PROBE_TIMEOUT:.0f} s')]

    def ask() -> None:
        try:
            answer[0] = request()
        except Exception as e:
            answer[0] = e

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_TIMEOUT)
    return answer[0]


def _store(file: HfFileMetadata, where: dict[str, Any], cache: Path) -> tuple[Path, bool]:
    """Put a file of the Hub into the cache. Returns its path, and whether its hash has been checked just now."""
    at_commit = {**where, 'revision': file.commit_hash}
    checked = False
    if not isinstance(try_to_load_from_cache(**at_commit, cache_dir=cache), str):
        if not is_digest(file.etag) or file.size is None:
            raise OSError('the server declares no hash or size for it, so that it could not be checked')
        folder = repo_folder_name(repo_id=where['repo_id'], repo_type='model')
        blob = cache / folder / 'blobs' / file.etag
        lock = cache / '.locks' / folder / f'{file.etag}.lock'
        blob.parent.mkdir(parents=True, exist_ok=True)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if not blob.exists():  # another process may have been faster
                # The address that redirects lead to expires, so every try follows the redirects anew.
                url, name = hf_hub_url(**at_commit), f'{where["repo_id"]}/{where["filename"]}'
                download_file(url, file.etag, file.size, blob, name, send_token=True)
                checked = True
    # huggingface_hub finds the content, and adds the snapshot and the reference.
    stored = Path(hf_hub_download(**where, cache_dir=cache, etag_timeout=CONNECT_TIMEOUT))
    return stored, checked and declared_digest(stored) == file.etag


def _sound(file: Path, hf_hub_id: str) -> Path:
    """The file itself, if its hash is right."""
    declared = declared_digest(file)
    if declared and (actual := digest_of(file, declared)) != declared:
        raise HubError(
            f'The cached {file.name} of {hf_hub_id} is damaged: its hash is {actual}, but the Hub declared {declared}; '
            f'delete it by `rm {blob_of(file)}`, and it is downloaded again when it is next used.'
        )
    return file


def sentence(error: BaseException) -> str:
    """What an error of the Hub, of the HTTP client or of the file system says, in one line.

    The messages of huggingface_hub have a status line, then its meaning, then advice. Some hide the cause.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = ' '.join(lines[:2]) or type(error).__name__
    if not isinstance(error, HfHubHTTPError):
        cause = sentence(error.__cause__) if error.__cause__ else said
        return said if cause in said else f'{said} ({cause})'
    if error.response.status_code in (401, 403):
        said += ' For a private or gated repository, set HF_TOKEN or log in by `hf auth login`.'
    return said
