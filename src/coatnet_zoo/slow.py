"""Saying what takes long: one line in the log for a job that takes more than two seconds.

The line is a warning, because Python shows warnings of the log on stderr, also in notebooks, to users who have not set
up logging. Programs that do not want the line say `logging.getLogger('coatnet_zoo.slow').setLevel(logging.ERROR)`.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator

_SECONDS = 2.0

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def say_if_slow(job: str) -> Iterator[None]:
    """Log a line if the `with` block, or the decorated function, has not ended after two seconds.

    Args:
        job: What the block does, as the beginning of a sentence: 'Optimising coatnet_1'.
    """
    timer = threading.Timer(_SECONDS, _logger.warning, ('%s ...', job))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
