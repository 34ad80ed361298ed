"""Named weights in the cache: downloading weights, and comparing weights with their hashes."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import CheckpointError, HubError
from ..registry import WEIGHTS
from .catalogue import SHIPPED, fetch_file, stored_file

_AT_ONCE = 4  # number of downloads; one connection rarely uses the whole bandwidth


@dataclass(frozen=True)
class Verdict:
    """The result of comparing the file of weights with its hash.

    Attributes:
        name: Name of the weights.
        sound: Whether the file is on this machine and has the declared hash.
        text: One sentence about the result.
    """

    name: str
    sound: bool
    text: str


def pull(names: Iterable[str], done: Callable[[str, Path | HubError | CheckpointError], None]) -> None:
    """Download weights into the cache, several at a time. Damaged files are replaced.

    Args:
        names: Names of weights, with tags.
        done: Called with each name and the file, or the error.

    Raises:
        KeyboardInterrupt: At once, while downloads still run in threads. The parts that have arrived are kept, and the
            next call resumes the downloads.
    """
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        jobs = {pool.submit(partial(fetch_file, mend=True), name): name for name in names}
        for job in _as_completed(jobs):
            error = job.exception()
            if error is not None and not isinstance(error, (HubError, CheckpointError)):
                raise error
            done(jobs[job], error or job.result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _as_completed(jobs: Iterable[Future[Path]]) -> Iterator[Future[Path]]:
    """Works like `concurrent.futures.as_completed`, except that Ctrl-C ends the waiting.

    The signal may reach a thread other than the main thread, and then a wait without a limit would continue.
    """
    pending = set(jobs)
    while pending:
        finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
        yield from finished


def verify(name: str) -> Verdict:
    """Compare the file of weights with the hash that its source declared, without a network.

    Args:
        name: Name of the weights, with tag.
    """
    if not WEIGHTS[name].hf_hub_id and not WEIGHTS[name].release:
        return Verdict(name, True, f'{SHIPPED} in the package, like its code')
    remedy = f'mend it by `coatnet-zoo pull {name}`'
    try:
        stored = stored_file(name)
        if stored is None:
            return Verdict(name, False, f'not in the cache; `coatnet-zoo pull {name}` gets it')
        if stored.declared is None:
            return Verdict(name, False, f'{stored.file} cannot be verified: no hash of it is kept')
        actual = stored.wrong_digest()
    except OSError as e:
        return Verdict(name, False, f'the file cannot be read ({e}); {remedy}')
    if actual:
        text = f'{stored.file} is damaged: its hash is {actual}, but {stored.declared} was declared; {remedy}'
        return Verdict(name, False, text)
    return Verdict(name, True, f'{stored.file} is sound ({stored.declared})')
