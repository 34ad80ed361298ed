"""Waiting for servers, but not forever: a limit for every answer, for every part of an answer, and for the tries."""

import contextlib
import ctypes
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError

from .messages import sentence

# The limit in seconds, which includes the name look-up. HTTP clients do not limit the name look-up.
_PROBE_TIMEOUT = 4.0
# Seconds between tries.
_WAITS = (1.0, 2.0, 4.0, 8.0, 8.0)
# The longest wait in seconds. The Hub resets its rate limits every five minutes.
_LONGEST_WAIT = 300.0
# After a 416 the download starts from the beginning.
_TRANSIENT = (408, 416, 429, 500, 502, 503, 504)
_Item = TypeVar('_Item')

_logger = logging.getLogger(__name__)


class Refused(OSError):
    """The answer of a server can never become the file, so another try is useless."""


def answer_or_error(request: Callable[[], _Item]) -> _Item | Exception:
    """The result or the exception of a request, or a TimeoutError after 4 seconds."""
    try:
        return answer_within(_PROBE_TIMEOUT, request)
    except Exception as e:
        return e


def answer_within(seconds: float, request: Callable[[], _Item]) -> _Item:
    """The result of a request. Raises the exception of the request, or a TimeoutError."""

    def only() -> Generator[_Item, None, None]:
        yield request()

    return next(each_within(seconds, seconds, only))


def each_within(first: float, seconds: float, produce: Callable[[], Generator[_Item, None, None]]) -> Iterator[_Item]:
    """The items of a generator that runs in a separate thread, because no HTTP client limits a whole answer.

    Args:
        first: Seconds that the first item may take.
        seconds: Seconds that every other item may take.
        produce: Makes the generator. If the caller closes the iterator, the generator is closed at its next item.

    Raises:
        TimeoutError: If an item takes longer.
        Exception: Any exception of the generator.
    """
    items: queue.Queue[tuple[str, object]] = queue.Queue(4)
    left = threading.Event()

    def run() -> None:
        try:
            with contextlib.closing(produce()) as generator:
                for item in generator:
                    items.put(('item', item))
                    if left.is_set():
                        return
            items.put(('end', None))
        except BaseException as e:  # also the SystemExit that ends the thread
            items.put(('error', e))

    thread = threading.Thread(target=run, name='coatnet-zoo: an answer', daemon=True)
    thread.start()
    limit = first
    try:
        while True:
            try:
                kind, item = items.get(timeout=limit)
            except queue.Empty:
                # A server may send forever without a useful answer. The exception ends the thread at its next step.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
                raise TimeoutError(f'no answer within {limit:g} s') from None
            if kind == 'end':
                return
            if kind == 'error':
                raise item
            yield item
            limit = seconds
    finally:
        left.set()
        with contextlib.suppress(queue.Empty):  # the thread may wait for space in the queue
            while True:
                items.get_nowait()


class Retries:
    """A limited number of tries, with a longer wait after each try."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Start the count of tries again, because the last try made progress."""
        self._waits = iter(_WAITS)

    def wait(self, error: Exception, name: str) -> None:
        """Wait until the next try.

        Args:
            error: Why the last try failed.
            name: Name of the requested file, for the log.

        Raises:
            Exception: The error itself, after the last try, or if another try cannot help.
        """
        seconds = None if isinstance(error, Refused) else next(self._waits, None)
        if isinstance(error, HfHubHTTPError):
            response = error.response
            if response.status_code not in _TRANSIENT:
                raise error
            asked = re.fullmatch(r'\d{1,9}', response.headers.get('Retry-After', '')) or re.search(
                r'\bt=(\d{1,9})\b', response.headers.get('RateLimit', '') if response.status_code == 429 else ''
            )
            seconds = seconds and max(seconds, float(asked[asked.lastindex or 0]) if asked else 0.0)
        if seconds is None or seconds > _LONGEST_WAIT:
            raise error
        _logger.warning('%s: %s; the next try is in %.0f s.', name, sentence(error), seconds)
        time.sleep(seconds)
