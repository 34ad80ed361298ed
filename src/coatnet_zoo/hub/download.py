"""Downloading one file into huggingface_hub's cache so that an interrupted download goes on where it ended.

huggingface_hub 2 resumes only within one call: what a killed process had got is lost, and content is compared with
its size, not with its hash. Here the part that has arrived is kept as `blobs/HASH.incomplete`, and becomes
`blobs/HASH` when its hash is the declared one. Requests, retries and the lock are huggingface_hub's.
"""

import logging
import os
import time
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers

from ..version import __version__
from .integrity import digest_of

# Seconds between tries that get nothing new, while the server answers 5xx.
_WAITS = (1.0, 2.0, 4.0)

_logger = logging.getLogger(__name__)


def download_blob(url: str, digest: str, size: int, blob: Path, lock: Path, name: str) -> bool:
    """Download a file, unless another process has done so by the time the lock is free.

    Args:
        url: Where it is; a token is sent along if the user has one.
        digest: The hash that was declared for it.
        size: Its size in bytes.
        blob: Where it goes; `blob`.incomplete is gone on with if it exists.
        lock: File that other processes lock as well.
        name: For the progress bar.

    Returns:
        Whether it was downloaded, and so has been compared with its hash.

    Raises:
        HfHubHTTPError: If the server refuses, or goes on failing.
        OSError: If it cannot be stored, or its content is not the declared one, even on a second try.
        Exception: The HTTP client's, if the connection breaks and cannot be made again.
    """
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return False
        partial = blob.with_name(f'{blob.name}.incomplete')
        for _ in range(2):
            _complete(url, size, partial, name)
            actual = digest_of(partial, digest)
            if actual == digest:
                os.replace(partial, blob)
                return True
            _logger.warning('%s arrived damaged: its hash is %s instead of %s.', name, actual, digest)
            partial.unlink()
        raise OSError(f'it arrived damaged twice (hash {actual} instead of {digest}), so it was thrown away')


def _complete(url: str, size: int, partial: Path, name: str) -> None:
    """Append to a file what it lacks."""
    # Compressed answers have no ranges.
    headers = build_hf_headers(library_name='coatnet-zoo', library_version=__version__)
    headers['Accept-Encoding'] = 'identity'
    waits = iter(_WAITS)
    while True:
        have = partial.stat().st_size if partial.exists() else 0
        if have > size:
            partial.unlink()
            have = 0
        try:
            with partial.open('ab') as f:
                http_get(url, f, resume_size=have, headers=headers, expected_size=size, displayed_filename=name)
            return
        except Exception as e:
            if _is_of_the_disk(e):
                partial.unlink(missing_ok=True)
                raise
            # http_get has retried on its own, but neither after 5xx nor after every kind of broken connection.
            grew = partial.stat().st_size > have
            wait = _WAITS[0] if grew else next(waits, None)
            if wait is None or not (grew or _is_of_the_server(e)):
                raise
            _logger.warning('%s: %s; going on in %.0f s.', name, str(e).partition('\n')[0], wait)
            time.sleep(wait)


def _is_of_the_disk(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno is not None


def _is_of_the_server(error: Exception) -> bool:
    return isinstance(error, HfHubHTTPError) and error.response.status_code >= 500
