"""Downloading one file: an interrupted download resumes where the download ended, and the hash is checked.

huggingface_hub resumes only within one call: the download of a killed process is lost. huggingface_hub compares the
size of the content, not the hash, and sets no limit for a server that never stops sending. This module keeps the part
that has arrived as `FILE.incomplete`, and renames it to `FILE` when the hash is the declared hash.
"""

import base64
import contextlib
import errno
import logging
import os
import re
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, tqdm
from huggingface_hub.utils.tqdm import is_tqdm_disabled

from ..version import __version__
from .integrity import check_own, digest_of
from .waiting import Refused, Retries, each_within

# Size of the largest allowed file in bytes. The file of coatnet_7 has 10 GB.
_LARGEST = 50_000_000_000
# A connection that brings fewer than `_LEAST` bytes in `_WINDOW` seconds is closed.
_WINDOW, _LEAST = 30.0, 30 << 10
# After this number of new bytes, the count of tries starts again.
_PROGRESS = 64 << 10

# After these errors, the part that has arrived is removed to free disk space.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_logger = logging.getLogger(__name__)


def download_file(
    url: str, digest: str, size: int | None, file: Path, name: str, send_token: bool, largest: int = _LARGEST
) -> None:
    """Download a file. The caller keeps other processes away from the file.

    Args:
        url: Address of the file.
        digest: The declared hash of the file.
        size: Size of the file in bytes; None if the server declares no size in advance.
        file: The destination. If `FILE.incomplete` exists, the download is resumed.
        name: Name of the file for the progress bar.
        send_token: Send the user's token of the Hub, if the user has a token.
        largest: The largest number of bytes that the file may have.

    Raises:
        HfHubHTTPError: If the server refuses, or keeps failing.
        OSError: If the file cannot be stored, or if its size or its hash is wrong, even on a second try.
        Exception: An exception of the HTTP client, if the connection breaks and cannot be restored.
    """
    if size is not None and not 0 <= size <= largest:
        raise Refused(f'the server declares {size:.0f} bytes, but the file has at most {largest:,}')
    url, headers = request_of(url, send_token)
    headers['Accept-Encoding'] = 'identity'  # compressed answers have no ranges
    partial = file.with_name(f'{file.name}.incomplete')
    check_own(partial)
    for _ in range(2):
        _complete(url, headers, size, largest, partial, name)
        actual = digest_of(partial, digest)
        if actual == digest:
            os.replace(partial, file)
            return
        _logger.warning('%s arrived damaged: its hash is %s instead of %s.', name, actual, digest)
        partial.unlink()
    raise OSError(f'it arrived damaged twice (hash {actual} instead of {digest}), so it was thrown away')


def request_of(url: str, send_token: bool = True) -> tuple[str, dict[str, str]]:
    """An address without its login, because HTTP clients log addresses, and the headers with the login or the token."""
    scheme, _, rest = url.partition('://')
    login, at, _ = rest.partition('/')[0].rpartition('@')
    basic = base64.b64encode(unquote(login).encode()).decode()
    headers = build_hf_headers(
        token=None if send_token and not at else False,
        library_name='coatnet-zoo',
        library_version=__version__,
        headers={'authorization': f'Basic {basic}'} if at else None,
    )
    return f'{scheme}://{rest[len(login) + len(at) :]}', headers


def _complete(url: str, headers: dict[str, str], size: int | None, largest: int, partial: Path, name: str) -> None:
    """Append the missing bytes to a file."""
    retries = Retries()
    furthest = _size_of(partial)
    with tqdm(
        total=size,
        initial=furthest,
        desc=name[-40:],
        unit='B',
        unit_scale=True,
        disable=is_tqdm_disabled(logging.WARNING),
    ) as bar:
        while True:
            try:
                return _receive(url, headers, size, largest, partial, bar)
            except Exception as e:
                if isinstance(e, OSError) and e.errno is not None:  # an error of the disk
                    if e.errno in _FULL:
                        partial.unlink(missing_ok=True)
                    raise
                # A server without ranges starts from the beginning each time, which is no progress.
                if (have := _size_of(partial)) >= furthest + _PROGRESS:
                    furthest = have
                    retries.restart()
                retries.wait(e, name)


def _receive(url: str, headers: dict[str, str], size: int | None, largest: int, partial: Path, bar: tqdm) -> None:
    """One try to append the missing bytes to a file."""
    with partial.open('ab') as f:
        have, end = f.tell(), largest if size is None else size
        if have > end:
            f.truncate(have := 0)
        bar.update(have - bar.n)
        if have == size:
            return
        asked = {'Range': f'bytes={have}-'} if have else {}
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with contextlib.closing(each_within(3 * timeout, timeout, lambda: _stream(url, headers | asked))) as answer:
            response = next(answer)
            if response.status_code == 416:
                f.truncate(0)
            begin = _first_byte(response)
            if begin != have:
                f.truncate(have := 0)
                bar.update(-bar.n)
            if begin != have:
                raise ConnectionError('the server sends another part of the file than it was asked for')
            since, then = time.monotonic(), have
            for chunk in answer:
                f.write(chunk[: end - have])
                f.flush()  # the part that has arrived stays on the disk if the process dies
                bar.update(len(chunk))
                have += len(chunk)
                if have >= end:
                    break
                if time.monotonic() - since > _WINDOW:
                    if have - then < _LEAST:
                        raise TimeoutError(f'fewer than {_LEAST:,} bytes came within {_WINDOW:g} s')
                    since, then = time.monotonic(), have
        if size is None and have >= end:
            f.truncate(0)
            raise Refused(f'the server sends more than the {largest:,} bytes that the file can have')
    if size is not None and have < size:
        raise ConnectionError(f'the connection ended after {have:,} of {size:,} bytes')


def _stream(url: str, headers: dict[str, str]) -> Generator[Any, None, None]:
    """The response, then the bytes of its body as the bytes arrive."""
    with get_session().stream('GET', url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        yield response
        yield from response.iter_raw()


def _first_byte(response: Any) -> int | None:
    """The offset in the file where a body begins, None if the server does not tell. Raises if the body is unusable."""
    # The check gets the response without its body, because huggingface_hub would read the whole body for its message.
    hf_raise_for_status(type(response)(response.status_code, headers=_plain(response), request=response.request))
    if response.status_code not in (200, 206):
        raise Refused(f'the server answers with status {response.status_code} instead of the file')
    encoding = response.headers.get('Content-Encoding', 'identity')
    if encoding != 'identity':
        raise Refused(f'the server compresses the file ({encoding!r}), although it was asked not to')
    if response.status_code == 200:
        return 0
    begin = re.match(r'bytes (\d{1,15})-', response.headers.get('Content-Range', ''))
    return int(begin[1]) if begin else None


def _plain(response: Any) -> list[tuple[str, str]]:
    return [(key, value) for key, value in response.headers.multi_items() if key.lower() != 'content-encoding']


def _size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
