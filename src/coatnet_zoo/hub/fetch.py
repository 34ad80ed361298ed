"""Files of weights from the Hugging Face Hub, by huggingface_hub, and from a GitHub release page.

Every file is compared with the hash that its source declared, and every error is one line.
"""

import hashlib
import os
import re
from pathlib import Path
from urllib.request import Request, urlopen

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from ..errors import HubError
from ..files import SAFETENSORS, write_file
from ..registry import RELEASE_HOST, WEIGHTS, short
from .messages import one_line, one_line_error, without_secrets

_Folder = str | os.PathLike | None


def cached_weights(hf_hub_id: str, filename: str = SAFETENSORS, cache_dir: _Folder = None) -> Path | None:
    """The local path of a weights file that is in the cache, or None. Makes no network request; see `fetch_weights`."""
    repo_id, _, revision = hf_hub_id.partition('@')
    try:
        file = try_to_load_from_cache(repo_id, filename, cache_dir, revision or None)
    except (OSError, ValueError):  # not the name of a repository, or garbage in the cache
        return None
    return Path(file) if isinstance(file, str) else None


def fetch_weights(hf_hub_id: str, filename: str = SAFETENSORS, cache_dir: _Folder = None, mend: bool = False) -> Path:
    """The local path of a weights file on the Hub, downloaded if it is not cached.

    The content is compared with the hash that the Hub declared, after a download and at every use of a cached file.

    Args:
        hf_hub_id: Repository, `org/name` or `org/name@revision`.
        filename: A safetensors file in the repository, or `config.json`.
        cache_dir: The cache. Default: huggingface_hub's cache.
        mend: Download a damaged file again instead of raising an error.

    Raises:
        HubError: If the file is damaged or cannot be fetched. If the Hub does not respond, the error (or the cached
            file) comes after `time_limit`.
    """
    if filename != 'config.json' and not filename.endswith('.safetensors'):
        raise HubError(f'{short(filename)} of {short(hf_hub_id)}: only .safetensors files are fetched.')
    cache = cache_dir or constants.HF_HUB_CACHE
    what = f'{short(filename)} of {short(hf_hub_id)} cannot be fetched from the Hub at {constants.ENDPOINT}'
    with one_line_error(HubError, f'{what} into {cache}'):
        repo_id, _, revision = hf_hub_id.partition('@')
        cached = cached_weights(hf_hub_id, filename, cache)
        damage = cached and damage_of(cached, declared_digest(cached))
        if damage and not mend:
            raise HubError(
                f'The cached {filename} of {hf_hub_id} is damaged: {damage}; delete {os.path.realpath(cached)}, and '
                'the next use downloads it again.'
            )
        usable = None if damage else cached
        if usable and (constants.HF_HUB_OFFLINE or re.fullmatch('[0-9a-f]{40}', revision)):  # a commit never changes
            return usable
        missing = f'{repo_id} is {"damaged" if damage else "not"} in the cache {cache}'
        if constants.HF_HUB_OFFLINE:
            raise HubError(
                f'{missing}, and HF_HUB_OFFLINE is set: unset it once, set HF_HUB_CACHE to a cache with the file, '
                f'{_elsewhere(repo_id)}.'
            )
        url = hf_hub_url(repo_id, filename, revision=revision or None)
        try:
            commit = get_hf_file_metadata(url, timeout=time_limit()).commit_hash
            if usable and commit in usable.parts:
                return usable
        except Exception as e:
            if usable:
                return usable
            # An error of the Hub or of the token comes again from hf_hub_download, which retries where that may help.
            if not isinstance(e, (HfHubHTTPError, UnicodeEncodeError)):
                hub = without_secrets(constants.ENDPOINT)
                raise HubError(
                    f'{missing} and the Hub at {hub} cannot be reached ({one_line(e)}); connect to a network, '
                    f'set HF_ENDPOINT to a mirror or HF_HUB_ETAG_TIMEOUT to more seconds, {_elsewhere(repo_id)}.'
                ) from e
        options = dict(revision=revision or None, cache_dir=cache, force_download=bool(damage))
        try:
            file = Path(hf_hub_download(repo_id, filename, **options))
        except Exception:
            if usable:
                return usable
            raise
        if damage := damage_of(file, declared_digest(file)):
            os.unlink(os.path.realpath(file))
            raise HubError(f'{filename} of {hf_hub_id} arrived damaged and was discarded: {damage}; try again.')
        return file


def _elsewhere(repo_id: str) -> str:
    """The way out without a network."""
    name = next((name for name, weights in WEIGHTS.items() if weights.hf_hub_id == repo_id), None)
    command = f'coatnet-zoo pull {name} --dest FOLDER' if name else f'hf download {repo_id} --local-dir FOLDER'
    return f'or run `{command}` on another machine, copy it here and load local-dir:FOLDER'


def release_file(release: str, md5: str, cache_dir: _Folder = None) -> Path:
    """The path of the `.h5` file of a release on this machine, whether or not it exists; see `fetch_release`."""
    # The checksum is part of the name, because a later upload may replace the file.
    return Path(cache_dir or constants.HF_HOME) / 'coatnet-zoo' / f'{Path(release).stem}-{md5[:8]}.h5'


def fetch_release(release: str, md5: str, cache_dir: _Folder = None, mend: bool = False) -> Path:
    """The local path of the `.h5` file of a release, downloaded if missing, and compared with its checksum.

    See `fetch_weights`. The default of `cache_dir` is `HF_HOME`, outside huggingface_hub's cache, so that no repository
    can write there.
    """
    file, url = release_file(release, md5, cache_dir), f'{RELEASE_HOST}/{release}'

    def download(new: Path) -> None:
        from torch.hub import download_url_to_file  # slow to import, and `coatnet-zoo list` does not need it

        download_url_to_file(url, str(new), progress=not constants.HF_HUB_DISABLE_PROGRESS_BARS)
        if damage := damage_of(new, md5):
            raise HubError(f'{url} arrived damaged and was discarded: {damage}; try again.')

    with one_line_error(HubError, f'{url} cannot be fetched into {file.parent}'):
        damage = damage_of(file, md5) if file.is_file() else 'missing'
        if damage is None:
            return file
        if file.is_file() and not mend:
            raise HubError(f'{file} is damaged: {damage}; delete it, and the next use downloads it again.')
        if constants.HF_HUB_OFFLINE:
            raise HubError(f'{file} is missing or damaged, and HF_HUB_OFFLINE is set: unset it once to fetch {url}.')
        urlopen(Request(url, method='HEAD'), timeout=time_limit()).close()  # torch would wait without limit
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, download)
    return file


def time_limit() -> float:
    """Seconds that a server has for its first response: `HF_HUB_ETAG_TIMEOUT`, or 5 if that is not set."""
    return constants.HF_HUB_ETAG_TIMEOUT if 'HF_HUB_ETAG_TIMEOUT' in os.environ else 5.0


def declared_digest(file: Path) -> str | None:
    """The SHA-256 that the Hub declared for a cached file: the name of the blob that the file is a link to.

    None on a file system without symbolic links, where the cache keeps no hashes, and for files that git keeps.
    """
    blob = Path(os.readlink(file)).name if file.is_symlink() else ''
    return blob if re.fullmatch('[0-9a-f]{64}', blob) else None


def damage_of(file: Path, declared: str | None) -> str | None:
    """What is wrong with the content of a file, by its SHA-256 or MD5; None if it matches or no hash was declared."""
    if declared is None:
        return None
    digest = hashlib.sha256() if len(declared) == 64 else hashlib.md5(usedforsecurity=False)
    with file.open('rb') as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    actual = digest.hexdigest()
    return None if actual == declared else f'its hash is {actual}, but {declared} was declared'
