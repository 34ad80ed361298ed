"""Getting weights that are `.h5` files on a GitHub release page: downloaded, checked and converted once, then kept.

What is kept is a safetensors file in this package's names, so that later loads need neither network nor h5py. The
transfer (progress, resuming, retries) and the lock are huggingface_hub's.
"""

import hashlib
import os
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, get_session

from ..errors import CheckpointError
from ..tables.weights import RELEASE_HOST
from .fetch import CONNECT_TIMEOUT, HubError, answer_or_error, sentence
from .integrity import is_damaged, note_digest


def release_file(release: str, md5: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """Where the converted weights of a release are kept, be they there or not.

    Args:
        release: Path of the `.h5` file on the release host.
        md5: Its checksum, part of the name: another upload under the same path is another file.
        cache_dir: Folder below which to look; unless given `HF_HOME`, beside huggingface_hub's own cache.
    """
    folder = Path(cache_dir or constants.HF_HOME) / 'coatnet-zoo'
    return folder / f'{Path(release).stem}-{md5[:8]}.safetensors'


def fetch_release(release: str, md5: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """The local path of a release's weights as a safetensors file, downloaded and converted if it is not there yet.

    The file appears whole or not at all. A download that was cut off is resumed by the next call; several processes
    that ask for the same file download it once.

    Args:
        release: Path of the `.h5` file on the release host.
        md5: Its checksum.
        cache_dir: See `release_file`.

    Raises:
        HubError: If the file is not there and cannot be downloaded or stored, or does not have this checksum. Without
            a network it is raised within 5 seconds.
        CheckpointError: If h5py is missing, or if the file is none that can be converted.
    """
    # Imported here, because what lists weights asks this module where they are, and needs no torch for that.
    from ..checkpoints.keras_h5 import require_h5py

    file = release_file(release, md5, cache_dir)
    if file.is_file():
        if is_damaged(file):
            raise HubError(f'{file} is damaged; delete it, and it is downloaded and converted again when next used.')
        return file
    url = f'{RELEASE_HOST}/{release}'
    require_h5py(url)
    if constants.HF_HUB_OFFLINE:
        raise HubError(f'{url} has not been fetched into {file.parent} yet, and HF_HUB_OFFLINE is set; unset it once.')
    _check_reachable(url, file.parent)
    download = file.with_suffix('.incomplete.h5')
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(file.with_suffix('.lock')):
            if not file.is_file():  # another process may have been faster
                _download(url, md5, download)
                _convert(download, file)
                download.unlink()
    except (HubError, CheckpointError):
        raise
    except Exception as e:  # of this client, of the HTTP client below it, of the file system
        raise HubError(f'{url} cannot be fetched into {file.parent}: {sentence(e)}') from e
    return file


def _download(url: str, md5: str, path: Path) -> None:
    """Download or go on downloading; the file is only left there whole, or where more of it can follow."""
    # A process that was killed while it converted has left it whole.
    if not path.is_file() or _md5(path) != md5:
        with path.open('ab') as f:
            try:
                http_get(url, f, resume_size=f.tell(), displayed_filename=url.rpartition('/')[2])
            except HfHubHTTPError as e:
                if e.response is not None and e.response.status_code == 416:
                    path.unlink()  # longer than the file there, so none of its beginnings
                raise
    actual = _md5(path)
    if actual != md5:
        path.unlink()
        raise HubError(
            f'The download of {url} has the MD5 {actual} instead of {md5} and was thrown away; try again, and if it '
            'stays so, the file there is not the published one.'
        )


def _convert(source_file: Path, file: Path) -> None:
    """Write beside the destination, then rename."""
    from safetensors.torch import save_file

    from ..checkpoints.codes import find_source
    from ..checkpoints.reading import read_checkpoint

    state_dict = read_checkpoint(source_file)
    source = find_source(state_dict)
    if source is None:
        raise CheckpointError(f'{source_file} is not a checkpoint of a CoAtNet.')
    tensors = source.to_canonical(state_dict, source.infer_structure(state_dict))
    partial = file.with_suffix('.partial')
    try:
        save_file(tensors, partial, metadata={'format': 'pt'})
        # safetensors makes its files readable by their owner only, which a shared cache must not be.
        partial.chmod(source_file.stat().st_mode)
        note_digest(file, partial)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open('rb') as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _check_reachable(url: str, folder: Path) -> None:
    """Raise a `HubError` unless the host answers, be it with an error, which the download then reports."""
    answer = answer_or_error(lambda: get_session().head(url, follow_redirects=False, timeout=CONNECT_TIMEOUT))
    if isinstance(answer, Exception):
        raise HubError(
            f'{url} has not been fetched into {folder} yet and cannot be reached ({sentence(answer)}); connect to a '
            'network, or put the converted file there from a machine that has one.'
        ) from answer
