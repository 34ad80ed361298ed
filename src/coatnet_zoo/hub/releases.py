"""Fetching weights that are `.h5` files on a GitHub release page: downloading, checking, converting, and keeping.

The weights are kept as a safetensors file with the tensor names of this package, so later loads need neither a network
nor h5py. The SHA-256 of the safetensors file is kept in a note next to the file. The folder of both is not part of
huggingface_hub's cache, so no repository can write to the folder.
"""

import os
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock, get_session

from ..errors import CheckpointError, HubError
from ..files import write_file
from ..registry import COSTS, RELEASE_HOST, WEIGHTS
from .download import download_file
from .fetch import CONNECT_TIMEOUT
from .integrity import Stored, check_own, digest_of, is_digest
from .messages import sentence
from .waiting import answer_or_error

# A `.h5` file has four bytes for every parameter, and its own structure.
_BYTES_PER_PARAMETER = 5


def release_file(release: str, md5: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """The path of the converted weights of a release, whether or not the file exists.

    Args:
        release: Path of the `.h5` file on the release host.
        md5: Checksum of the `.h5` file. The path contains the checksum, because a later upload may replace the file.
        cache_dir: Folder for the converted weights. Default: `HF_HOME`, next to huggingface_hub's cache.
    """
    folder = Path(cache_dir or constants.HF_HOME) / 'coatnet-zoo'
    return folder / f'{Path(release).stem}-{md5[:8]}.safetensors'


def stored_release(release: str, md5: str, cache_dir: str | os.PathLike | None = None) -> Stored | None:
    """The converted weights of a release with the hash from the note, or None if the file does not exist.

    Args:
        release: See `release_file`.
        md5: See `release_file`.
        cache_dir: See `release_file`.

    Raises:
        OSError: If the note cannot be read.
    """
    file = release_file(release, md5, cache_dir)
    if not os.path.isfile(file):
        return None
    note = _note_of(file)
    if not os.path.lexists(note):
        return Stored(file, file, None)
    noted = note.read_bytes() if os.path.isfile(note) and note.stat().st_size == 64 else b''
    if not is_digest(noted.decode('ascii', 'replace')):
        raise OSError(f'{note} does not hold a SHA-256; delete it and {file.name}')
    return Stored(file, file, noted.decode())


def fetch_release(release: str, md5: str, cache_dir: str | os.PathLike | None = None, mend: bool = False) -> Path:
    """The local path of the weights of a release as a safetensors file, downloaded and converted if missing.

    The file appears complete or not at all. The next call resumes an interrupted download. If several processes need
    the same file, one process downloads the file.

    Args:
        release: Path of the `.h5` file on the release host, as the table of weights has it.
        md5: Checksum of the `.h5` file.
        cache_dir: See `release_file`.
        mend: Download and convert a damaged file again instead of raising.

    Raises:
        HubError: If the file is missing and cannot be downloaded or stored, or has another checksum. Without a network,
            the error comes within 5 seconds.
        CheckpointError: If h5py is missing, or if the file cannot be converted.
    """
    # Imported here, because listing weights uses this module for the paths of files, and needs no torch.
    from ..convert import require_h5py

    file = release_file(release, md5, cache_dir)
    url = f'{RELEASE_HOST}/{release}'
    try:
        if _is_whole(stored_release(release, md5, cache_dir), mend):
            return file
        require_h5py(url)
        if constants.HF_HUB_OFFLINE:
            raise HubError(
                f'{url} has not been fetched into {file.parent} yet, and HF_HUB_OFFLINE is set; unset it once.'
            )
        size = _declared_size(url, file.parent)
        download, lock = file.with_suffix('.h5'), file.with_suffix('.lock')
        file.parent.mkdir(parents=True, exist_ok=True)
        for own in (file, download, lock):
            check_own(own)
        with WeakFileLock(lock):
            # Another process may already have made the file.
            if not _is_whole(stored_release(release, md5, cache_dir), mend):
                # A process that was killed during the conversion has left the complete download.
                if not download.is_file() or digest_of(download, md5) != md5:
                    largest = _BYTES_PER_PARAMETER * _params(release)
                    download_file(url, md5, size, download, Path(release).name, send_token=False, largest=largest)
                _convert(download, file)
                download.unlink()
    except (HubError, CheckpointError):
        raise
    except Exception as e:  # exceptions of huggingface_hub, of its HTTP client, of the file system
        raise HubError(f'{url} cannot be fetched into {file.parent}: {sentence(e)}') from e
    return file


def _is_whole(stored: Stored | None, mend: bool) -> bool:
    damaged = stored is not None and stored.wrong_digest() is not None
    if damaged and not mend:
        raise HubError(f'{stored.file} is damaged; delete it, and it is downloaded and converted again when next used.')
    return stored is not None and not damaged


def _params(release: str) -> int:
    return next(COSTS[name, weights.impl][0] for name, weights in WEIGHTS.items() if weights.release == release)


def _note_of(file: Path) -> Path:
    return file.with_name(f'{file.name}.sha256')


def _declared_size(url: str, folder: Path) -> int | None:
    """The size of a file in bytes, or None if the size is unknown. Raises a `HubError` if no host answers."""
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

    from ..convert import read_translated

    translation = read_translated(source)

    def save(partial: Path) -> None:
        save_file(translation.tensors, partial, metadata={'format': 'pt'})
        digest = digest_of(partial, '0' * 64)
        write_file(_note_of(file), lambda note: note.write_text(digest))

    write_file(file, save)
