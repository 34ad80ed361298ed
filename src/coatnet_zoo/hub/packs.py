"""Named weights as files: pulled into the cache, verified there, and packed into folders that timm loads."""

import filecmp
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..tables.weights import SAFETENSORS, WEIGHTS
from .catalogue import SHIPPED, fetch, local_file
from .fetch import HubError
from .integrity import blob_of, declared_digest, digest_of, is_damaged

CONFIG = 'config.json'
_AT_ONCE = 4  # downloads; one connection rarely fills a line


@dataclass(frozen=True)
class Verdict:
    """What verifying the file of weights found.

    Attributes:
        name: Of the weights.
        sound: Whether their file is here and is what its source declared.
        text: One sentence.
    """

    name: str
    sound: bool
    text: str


def pull(names: Iterable[str], done: Callable[[str, Path | HubError | CheckpointError], None]) -> None:
    """Have weights in the cache, several at a time. Damaged files are replaced.

    Args:
        names: Of weights, with tags.
        done: Called for each with its file, or why it could not be had.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            jobs = {pool.submit(_mend, name): name for name in names}
            for job in _as_completed(jobs):
                error = job.exception()
                if error is not None and not isinstance(error, (HubError, CheckpointError)):
                    raise error
                done(jobs[job], error or job.result())
        except KeyboardInterrupt:
            # Leaving would wait for the downloads. What has arrived is kept, as after any other end of a process.
            os._exit(130)


def _as_completed(jobs: Iterable[Future[Path]]) -> Iterator[Future[Path]]:
    """As that of `concurrent.futures`, but Ctrl-C ends it: its signal may reach another thread than the main one, and
    then a wait without a limit goes on."""
    pending = set(jobs)
    while pending:
        finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
        yield from finished


def _mend(name: str) -> Path:
    file = local_file(name)
    try:
        if file is not None and is_damaged(file):
            blob_of(file).unlink()
    except OSError as e:
        raise HubError(f'{file} cannot be checked or replaced: {e}') from e
    return fetch(name)


def verify(name: str) -> Verdict:
    """Compare the file of weights with the hash that its source declared, without a network.

    Args:
        name: With tag.
    """
    file = local_file(name)
    if not WEIGHTS[name].hf_hub_id and not WEIGHTS[name].release:
        return Verdict(name, True, f'{SHIPPED} in the package, like its code')
    if file is None:
        return Verdict(name, False, f'not in the cache; `coatnet-zoo pull {name}` gets it')
    declared = declared_digest(file)
    if declared is None:
        return Verdict(name, False, f'{file} cannot be verified: a cache without symbolic links keeps no hashes')
    try:
        actual = digest_of(file, declared)
    except OSError as e:
        return Verdict(name, False, f'{file} cannot be read ({e}); mend it by `coatnet-zoo pull {name}`')
    if actual != declared:
        return Verdict(
            name,
            False,
            f'{file} is damaged: its hash is {actual}, but {declared} was declared; mend it by '
            f'`coatnet-zoo pull {name}`',
        )
    return Verdict(name, True, f'{file} is sound ({declared})')


def pack(name: str, file: Path, folder: Path) -> None:
    """Make a folder that `timm.create_model('local-dir:FOLDER', pretrained=True)` loads, on any machine.

    It gets the file of the weights as it is, and the configuration as timm saves it. A folder that has them already
    is completed; the configuration comes last, and timm loads nothing without it.

    Args:
        name: Of the weights, with tag.
        file: Their file.
        folder: Where to.

    Raises:
        HubError: If the folder has other weights, or cannot be written.
    """
    import timm
    from timm.models._hub import save_config_for_hf

    weights = folder / SAFETENSORS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not weights.exists():
            write_whole(weights, lambda partial: shutil.copyfile(file, partial))
        if not filecmp.cmp(weights, file, shallow=False):
            raise HubError(f'{weights} exists already and is not that of {name}; choose another folder.')
        model = timm.create_model(name, device='meta')
        write_whole(folder / CONFIG, lambda partial: save_config_for_hf(model, partial))
    except OSError as e:
        raise HubError(f'{folder} cannot be written: {e}') from e


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Write beside the destination, then rename: what is there is whole at any time.

    Args:
        file: The destination.
        write: Writes what it is given the path of.
    """
    partial = file.with_name(f'.{file.name}.{os.getpid()}.partial')
    try:
        write(partial)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
