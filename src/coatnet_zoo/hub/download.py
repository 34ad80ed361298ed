"""Downloading one file so that an interrupted download resumes where it ended, and so that its hash is right.

huggingface_hub resumes only within one call: what a killed process has downloaded is lost, and the content is compared
with its size, not with its hash. Here the part that has arrived is kept as `FILE.incomplete`, and becomes `FILE` when
its hash is the declared one. Requests, retries and progress are huggingface_hub's.
"""

import logging
import os
import time
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from ..version import __version__
from .integrity import digest_of

# Seconds between tries that get nothing new, while the server answers 5xx.
_WAITS = (1.0, 2.0, 4.0)

_logger = logging.getLogger(__name__)


def download_file(url: str, digest: str, size: int | None, file: Path, name: str, send_token: bool) -> None:
    """Download a file. The caller keeps other processes away from it.

    Args:
        url: Where the file is.
        digest: The hash that was declared for the file.
        size: Its size in bytes; None if the server does not declare one before it sends the file.
        file: Where the file goes. `FILE.incomplete` is resumed if it exists.
        name: For the progress bar.
        send_token: Send the user's token of the Hub along, if there is one.

    Raises:
        HfHubHTTPError: If the server refuses, or keeps failing.
        OSError: If the file cannot be stored, or its hash is wrong, even on a second try.
        Exception: The HTTP client's, if the connection breaks and cannot be made again.
    """
    headers = build_hf_headers(
        token=None if send_token else False, library_name='coatnet-zoo', library_version=__version__
    )
    headers['Accept-Encoding'] = 'identity'  # compressed answers have no ranges
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f'{file.name}.incomplete')
    for _ in range(2):
        _complete(url, headers, size, partial, name)
        actual = digest_of(partial, digest)
        if actual == digest:
            os.replace(partial, file)
            return
        _logger.warning('%s arrived damaged: its hash is %s instead of %s.', name, actual, digest)
        partial.unlink()
    raise OSError(f'it arrived damaged twice (hash {actual} instead of {digest}), so it was thrown away')


def _complete(url: str, headers: dict[str, str], size: int | None, partial: Path, name: str) -> None:
    """Append the missing bytes to a file."""
    waits = iter(_WAITS)
    while True:
        have = partial.stat().st_size if partial.exists() else 0
        if size is not None and have > size:
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
            # http_get has retried on its own, except after 5xx and after some kinds of broken connections.
            grew = partial.stat().st_size > have
            wait = _WAITS[0] if grew else next(waits, None)
            if wait is None or not (grew or _is_of_the_server(e)):
                raise
            _logger.warning('%s: %s; the download resumes in %.0f s.', name, str(e).partition('\n')[0], wait)
            time.sleep(wait)


def _is_of_the_disk(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno is not None


def _is_of_the_server(error: Exception) -> bool:
    return isinstance(error, HfHubHTTPError) and error.response.status_code >= 500
