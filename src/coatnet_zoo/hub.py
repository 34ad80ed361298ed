"""Getting a weights file from the Hugging Face Hub, with one clear sentence for what can go wrong.

The download, cache and retries are huggingface_hub's. What is added: a reachability check, because that client (and
so timm) retries for 25 s before it admits that there is no network.
"""

import os
import threading
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from .weights import SAFETENSORS

# Seconds. The first bounds a connection, the second also a name look-up, which no HTTP client times out.
_CONNECT_TIMEOUT = 3.0
_PROBE_TIMEOUT = 4.0


class HubError(RuntimeError):
    """Weights could not be had from the Hub."""


def fetch_weights(hf_hub_id: str, filename: str = SAFETENSORS, cache_dir: str | os.PathLike | None = None) -> Path:
    """The local path of a weights file on the Hub, downloaded if it is not cached.

    Args:
        hf_hub_id: Repository, `org/name` or `org/name@revision`.
        filename: File in it; must be a safetensors file.
        cache_dir: huggingface_hub's cache unless given.

    Raises:
        HubError: If the file is not cached and the Hub cannot be reached, has no such repository or file, or
            refuses access; or if the download breaks off or cannot be stored. Without a network it is raised (or the
            cached file returned) within 5 seconds.
    """
    if not filename.endswith('.safetensors'):
        raise HubError(f'{hf_hub_id} names the weights file {filename!r}, but only .safetensors files are fetched.')
    repo_id, _, revision = hf_hub_id.partition('@')
    where: dict[str, Any] = dict(repo_id=repo_id, filename=filename, revision=revision or None)
    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    try:
        failure = _reach(hf_hub_url(**where))
        if failure is None:
            return Path(hf_hub_download(**where, cache_dir=cache, etag_timeout=_CONNECT_TIMEOUT))
        cached = try_to_load_from_cache(**where, cache_dir=cache)
    except Exception as e:  # of this client, of the HTTP client below it, of the file system
        raise HubError(
            f'{filename} of {hf_hub_id} cannot be fetched from the Hub at {constants.ENDPOINT} into {cache}: '
            f'{_reason(e)}'
        ) from e
    if isinstance(cached, str):
        return Path(cached)
    raise HubError(
        f'{repo_id} is not in the cache {cache} and the Hub at {constants.ENDPOINT} cannot be reached '
        f'({_reason(failure)}); connect to a network, set HF_ENDPOINT to a mirror, or put the file into the cache and '
        'set HF_HUB_OFFLINE=1.'
    ) from failure


def _reason(error: BaseException) -> str:
    """The client's messages have a status line, then what it means, then advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ' '.join(lines[:2]) or type(error).__name__


def _reach(url: str) -> BaseException | None:
    """Ask for the file's metadata once; None if the Hub answers, be it with an error, else what went wrong."""
    failure: list[BaseException] = [TimeoutError(f'no answer within {_PROBE_TIMEOUT:.0f} s')]

    def probe() -> None:
        try:
            get_hf_file_metadata(url, timeout=_CONNECT_TIMEOUT)
            failure.clear()
        except HfHubHTTPError:
            failure.clear()  # an answer all the same; the download reports it
        except Exception as e:
            failure[0] = e

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(_PROBE_TIMEOUT)
    return failure[0] if failure else None
