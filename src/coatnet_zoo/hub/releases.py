"""Fetching weights that are `.h5` files on a GitHub release page.

The files are kept in `HF_HOME/coatnet-zoo`, which is not part of huggingface_hub's cache, so no repository can write
there.
"""

import os
import tempfile
from pathlib import Path
from urllib.request import Request, urlopen

from huggingface_hub import constants

from ..errors import HubError
from ..registry import RELEASE_HOST
from .digests import damage_of
from .fetch import answer_or_error
from .messages import one_line_error


def release_file(release: str, md5: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """The path of the `.h5` file of a release on this machine, whether or not it exists; see `fetch_release`."""
    # The checksum is part of the name, because a later upload may replace the file.
    return Path(cache_dir or constants.HF_HOME) / 'coatnet-zoo' / f'{Path(release).stem}-{md5[:8]}.h5'


def fetch_release(release: str, md5: str, cache_dir: str | os.PathLike | None = None, mend: bool = False) -> Path:
    """The local path of the `.h5` file of a release, downloaded if missing, and compared with its checksum.

    Args:
        release: Path of the file on the release host, as the table of weights has it.
        md5: Checksum of the file.
        cache_dir: Folder to keep the file in. Default: `HF_HOME`, next to huggingface_hub's cache.
        mend: Download a damaged file again instead of raising.

    Raises:
        HubError: If the file is damaged or cannot be fetched. Without a network, the error comes within 6 seconds, or
            `HF_HUB_ETAG_TIMEOUT`.
    """
    file, url = release_file(release, md5, cache_dir), f'{RELEASE_HOST}/{release}'
    with one_line_error(HubError, f'{url} cannot be fetched into {file.parent}'):
        damage = damage_of(file, md5) if file.is_file() else 'missing'
        if damage is None:
            return file
        if file.is_file() and not mend:
            raise HubError(f'{file} is damaged: {damage}; delete it, and it is downloaded again when it is next used.')
        if constants.HF_HUB_OFFLINE:
            raise HubError(f'{file} is missing or damaged, and HF_HUB_OFFLINE is set: unset it once to fetch {url}.')
        answer = answer_or_error(lambda limit: urlopen(Request(url, method='HEAD'), timeout=limit).close())
        if isinstance(answer, Exception):
            raise answer
        from torch.hub import download_url_to_file  # slow to import, and `coatnet-zoo list` does not need it

        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            new = Path(folder) / file.name
            download_url_to_file(url, str(new), progress=not constants.HF_HUB_DISABLE_PROGRESS_BARS)
            if damage := damage_of(new, md5):
                raise HubError(f'{url} arrived damaged and was thrown away: {damage}; try again.')
            os.replace(new, file)
    return file
