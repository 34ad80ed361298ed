"""Getting weights that are `.h5` files on a GitHub release page: downloaded, checked, converted once, and kept.

The file that is kept is a safetensors file in the names of this package, so that later loads need neither network nor
h5py.
"""

import os
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock, get_session

from ..errors import CheckpointError, HubError
from ..files import write_file
from ..tables import RELEASE_HOST
from .download import download_file
from .fetch import CONNECT_TIMEOUT, answer_or_error, sentence
from .integrity import digest_of, is_damaged, note_digest


def release_file(release: str, md5: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """Where the converted weights of a release are kept, whether they are there or not.

    Args:
        release: Path of the `.h5` file on the release host.
        md5: Checksum of that file. It is part of the name, because another upload to the same path is another file.
        cache_dir: Folder below which to look; `HF_HOME`, beside huggingface_hub's own cache, unless given.
    """
    folder = Path(cache_dir or constants.HF_HOME) / 'coatnet-zoo'
    return folder / f'{Path(release).stem}-{md5[:8]}.safetensors'


def fetch_release(release: str, md5: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """The local path of the weights of a release as a safetensors file, downloaded and converted if it is missing.

    The file appears whole or not at all. The next call resumes a download that was cut off. If several processes ask
    for the same file, one of them downloads it.

    Args:
        release: Path of the `.h5` file on the release host.
        md5: Checksum of that file.
        cache_dir: See `release_file`.

    Raises:
        HubError: If the file is missing and cannot be downloaded or stored, or has another checksum. Without a network,
            the error comes within 5 seconds.
        CheckpointError: If h5py is missing, or if the file cannot be converted.
    """
    # Imported here, because the list of weights asks this module where files are, and needs no torch for that.
    from ..checkpoints import require_h5py

    file = release_file(release, md5, cache_dir)
    if file.is_file():
        if is_damaged(file):
            raise HubError(f'{file} is damaged; delete it, and it is downloaded and converted again when next used.')
        return file
    url = f'{RELEASE_HOST}/{release}'
    require_h5py(url)
    if constants.HF_HUB_OFFLINE:
        raise HubError(f'{url} has not been fetched into {file.parent} yet, and HF_HUB_OFFLINE is set; unset it once.')
    size = _declared_size(url, file.parent)
    download = file.with_suffix('.h5')
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(file.with_suffix('.lock')):
            if not file.is_file():  # another process may have been faster
                # A process that was killed while it converted has left the download whole.
                if not download.is_file() or digest_of(download, md5) != md5:
                    download_file(url, md5, size, download, name=Path(release).name, send_token=False)
                _convert(download, file)
                download.unlink()
    except (HubError, CheckpointError):
        raise
    except Exception as e:  # of huggingface_hub, of the HTTP client below it, of the file system
        raise HubError(f'{url} cannot be fetched into {file.parent}: {sentence(e)}') from e
    return file


def _declared_size(url: str, folder: Path) -> int | None:
    """The size of a file in bytes, or None if the host does not tell it. Raises a `HubError` if nobody answers."""
    answer = answer_or_error(lambda: get_session().head(url, follow_redirects=True, timeout=CONNECT_TIMEOUT))
    if isinstance(answer, Exception):
        raise HubError(
            f'{url} has not been fetched into {folder} yet and cannot be reached ({sentence(answer)}); connect to a '
            'network, or put the converted file there from a machine that has one.'
        ) from answer
    length = answer.headers.get('Content-Length', '')
    # The download reports the errors of the host.
    return int(length) if answer.is_success and length.isdecimal() else None


def _convert(source: Path, file: Path) -> None:
    from safetensors.torch import save_file

    from ..checkpoints import read_checkpoint, translate

    translation = translate(read_checkpoint(source))
    if translation is None:
        raise CheckpointError(f'{source} is not a checkpoint of a CoAtNet.')

    def save(partial: Path) -> None:
        save_file(translation.tensors, partial, metadata={'format': 'pt'})
        note_digest(file, partial)

    write_file(file, save)
