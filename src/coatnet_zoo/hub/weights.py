"""Published weights by their full names, `size.tag`: the file on this machine, downloading it, and verifying it."""

import os
from pathlib import Path

from ..registry import WEIGHTS, bundled_file
from .digests import damage_of
from .fetch import cached_weights, declared_digest, fetch_weights
from .releases import fetch_release, release_file


def local_file(name: str) -> Path | None:
    """The file of weights on this machine, or None."""
    weights = WEIGHTS[name]
    if weights.release:
        file = release_file(weights.release, weights.md5)
        return file if os.path.isfile(file) else None
    return cached_weights(weights.hf_hub_id) if weights.hf_hub_id else bundled_file(name)


def pull(name: str) -> Path:
    """The file of weights, downloaded if it is missing or damaged. Raises a `HubError` if it cannot be fetched."""
    weights = WEIGHTS[name]
    if weights.release:
        return fetch_release(weights.release, weights.md5, mend=True)
    return fetch_weights(weights.hf_hub_id, mend=True) if weights.hf_hub_id else bundled_file(name)


def verify(name: str) -> tuple[bool, str]:
    """Compare the file of weights with the hash that its source declared, without a network.

    Returns:
        Whether the file is on this machine and has that hash, and a line about it.
    """
    weights, file = WEIGHTS[name], local_file(name)
    if file is None:
        return False, f'not in the cache; `coatnet-zoo pull {name}` gets it'
    if not weights.hf_hub_id and not weights.release:
        return True, 'bundled in the package, like its code'
    declared = weights.md5 or declared_digest(file)
    if declared is None:
        return False, f'{file} cannot be verified: no hash of it is kept'
    try:
        damage = damage_of(file, declared)
    except OSError as e:
        damage = f'it cannot be read ({e})'
    if damage:
        return False, f'{file} is damaged: {damage}; mend it by `coatnet-zoo pull {name}`'
    return True, f'{file} is sound ({declared})'
