"""Fetching weights from the Hugging Face Hub by huggingface_hub, with a check of every file and one line per error."""

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from ..errors import HubError
from ..files import SAFETENSORS
from ..registry import short
from .digests import damage_of
from .messages import one_line_error, sentence, without_secrets

_COMMIT = re.compile('[0-9a-f]{40}')
_DIGEST = re.compile('[0-9a-f]{64}|[0-9a-f]{40}')  # SHA-256 for large files, the hash of the git object for small ones
_TIME_LIMIT = 5.0  # seconds, unless HF_HUB_ETAG_TIMEOUT is set
_Answer = TypeVar('_Answer')


def cached_weights(
    hf_hub_id: str, filename: str = SAFETENSORS, cache_dir: str | os.PathLike | None = None
) -> Path | None:
    """The local path of a weights file that is in the cache, or None. The Hub is not asked; see `fetch_weights`."""
    repo_id, _, revision = hf_hub_id.partition('@')
    try:
        file = try_to_load_from_cache(repo_id, filename, cache_dir, revision or None)
    except (OSError, ValueError):  # not the name of a repository, or garbage in the cache
        return None
    return Path(file) if isinstance(file, str) else None


def fetch_weights(
    hf_hub_id: str,
    filename: str = SAFETENSORS,
    cache_dir: str | os.PathLike | None = None,
    mend: bool = False,
) -> Path:
    """The local path of a weights file on the Hub, downloaded if it is not cached.

    The content is compared with the hash that the Hub declared, after a download and at every use of a cached file.

    Args:
        hf_hub_id: Repository, `org/name` or `org/name@revision`.
        filename: A safetensors file in the repository, or `config.json`.
        cache_dir: The cache. Default: huggingface_hub's cache.
        mend: Download a damaged file again instead of raising.

    Raises:
        HubError: If the file is damaged or cannot be fetched. Without a network, the error (or the cached file) comes
            within 6 seconds, or `HF_HUB_ETAG_TIMEOUT`.
    """
    if filename != 'config.json' and not filename.endswith('.safetensors'):
        raise HubError(f'{short(filename)} of {short(hf_hub_id)}: only .safetensors files are fetched.')
    cache = cache_dir or constants.HF_HUB_CACHE
    what = (
        f'{short(filename)} of {short(hf_hub_id)} cannot be fetched from the Hub at {constants.ENDPOINT} into {cache}'
    )
    with one_line_error(HubError, what):
        return _fetch(hf_hub_id, filename, cache, mend)


def _fetch(hf_hub_id: str, filename: str, cache: str | os.PathLike, mend: bool) -> Path:
    repo_id, _, revision = hf_hub_id.partition('@')
    cached = cached_weights(hf_hub_id, filename, cache)
    damage = cached and damage_of(cached, declared_digest(cached))
    if damage and not mend:
        raise HubError(
            f'The cached {filename} of {hf_hub_id} is damaged: {damage}; delete it by `rm {os.path.realpath(cached)}`, '
            'and it is downloaded again when it is next used.'
        )
    usable = None if damage else cached
    if usable and (constants.HF_HUB_OFFLINE or _COMMIT.fullmatch(revision)):  # a commit never changes
        return usable
    missing = f'{repo_id} is {"damaged" if damage else "not"} in the cache {cache}'
    if constants.HF_HUB_OFFLINE:
        raise HubError(
            f'{missing}, and HF_HUB_OFFLINE is set: unset it once, or set HF_HUB_CACHE to a cache that has the file.'
        )
    url = hf_hub_url(repo_id, filename, revision=revision or None)
    answer = answer_or_error(lambda limit: get_hf_file_metadata(url, timeout=limit))
    if usable and (isinstance(answer, Exception) or answer.commit_hash in usable.parts):
        return usable
    # An error of the Hub or of the token comes again from hf_hub_download, which retries where that may help.
    if isinstance(answer, Exception) and not isinstance(answer, (HfHubHTTPError, UnicodeEncodeError)):
        hub = without_secrets(constants.ENDPOINT)
        raise HubError(
            f'{missing} and the Hub at {hub} cannot be reached ({sentence(answer)}); connect to a network, set '
            'HF_ENDPOINT to a mirror, or HF_HUB_ETAG_TIMEOUT to more seconds.'
        ) from answer
    for force in (bool(damage), True):
        options = dict(revision=revision or None, cache_dir=cache, force_download=force)
        file = Path(hf_hub_download(repo_id, filename, **options))
        damage = damage_of(file, declared_digest(file) or getattr(answer, 'etag', None))
        if not damage:
            return file
    os.unlink(file.parent / os.readlink(file) if file.is_symlink() else file)
    raise HubError(f'{filename} of {hf_hub_id} arrived damaged twice and was thrown away: {damage}; try again.')


def declared_digest(file: Path) -> str | None:
    """The hash that the Hub declared for a cached file: the name of the blob that the file is a link to.

    None on a file system without symbolic links, where the cache keeps no hashes.
    """
    blob = Path(os.readlink(file)).name if file.is_symlink() else ''
    return blob if _DIGEST.fullmatch(blob) else None


def answer_or_error(request: Callable[[float], _Answer]) -> _Answer | Exception:
    """The result of a request, or its exception, within `HF_HUB_ETAG_TIMEOUT` or else 5 seconds.

    HTTP clients limit the time for each address of a host, and no name look-up. So the request runs in a thread, which
    ends when the client gives up.

    Args:
        request: Called with the time limit for the client, in seconds.
    """
    limit = constants.HF_HUB_ETAG_TIMEOUT if 'HF_HUB_ETAG_TIMEOUT' in os.environ else _TIME_LIMIT
    answers: list[_Answer | Exception] = []

    def run() -> None:
        try:
            answers.append(request(limit + 1.0))
        except Exception as e:
            answers.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit)
    return answers[0] if answers else TimeoutError(f'no answer within {limit:g} s')
