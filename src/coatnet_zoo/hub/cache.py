"""Named weights in the cache: downloaded there, and compared with their hashes."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import CheckpointError, HubError
from ..tables import WEIGHTS
from .catalogue import SHIPPED, fetch_file, stored_file

_AT_ONCE = 4  # downloads; one connection rarely uses the whole bandwidth


@dataclass(frozen=True)
class Verdict:
    """What comparing the file of weights with its hash found.

    Attributes:
        name: Of the weights.
        sound: Whether the file is here and is what its source declared.
        text: One sentence.
    """

    name: str
    sound: bool
    text: str


def pull(names: Iterable[str], done: Callable[[str, Path | HubError | CheckpointError], None]) -> None:
    """Download weights into the cache, several at a time. Damaged files are replaced.

    Args:
        names: Of weights, with tags.
        done: Called for each name with the file, or with the error that says why there is no file.

    Raises:
        KeyboardInterrupt: At once, while downloads still run in threads. What has arrived is kept, and resumes next
            time.
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
    """As `concurrent.futures.as_completed`, except that Ctrl-C ends it.

    The signal may reach another thread than the main one, and then a wait without a limit continues.
    """
    pending = set(jobs)
    while pending:
        finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
        yield from finished


def verify(name: str) -> Verdict:
    """Compare the file of weights with the hash that its source declared, without a network.

    Args:
        name: With tag.
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
