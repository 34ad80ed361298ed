"""The catalogue: every name, implementation and set of weights; and the file of each set on this machine."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UnknownNameError
from ..registry import (
    COSTS,
    IMPLS,
    SIZES,
    WEIGHTS,
    bundled_file,
    list_impls,
    no_such,
    our_name,
    short,
    tags_of,
    untrained_cfg,
    weights_cfg,
)
from .fetch import cached_weights, damage_of, declared_digest, fetch_release, fetch_weights, release_file


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One set of weights; or one network without published weights, which has None where there is a default."""

    name: str  # for `timm.create_model`; a network without weights also needs `impl`
    tag: str | None
    impl: str
    params: int  # with the classifier
    gmacs: float  # multiply-adds in billions, for one image of `img_size`
    img_size: int  # native height and width in pixels
    num_classes: int
    top1: float | None = None  # in percent; None also if no accuracy is published
    license: str | None = None  # as on the Hub
    source: str | None = None  # repository on the Hub, URL, or 'bundled'
    cached: bool | None = None  # whether the file is on this machine
    default: bool  # whether `timm.create_model` with the size alone means this entry
    download: int | None = None  # in bytes, 4 for each parameter, within about 1 %; 0 if bundled
    in_chans: int  # channels of the images
    trained_on: str | None = None


def entries(pretrained: bool = False, impl: str | None = None) -> list[Entry]:
    """The catalogue by size; in a size, default weights come first, then other weights, then networks without weights.

    Args:
        pretrained: Leave out networks that have no weights.
        impl: Leave out the other implementations, in any case of letters.

    Raises:
        UnknownNameError: If there is no such implementation.
    """
    known = impl and impl.lower()
    if known is not None and known not in IMPLS:
        raise UnknownNameError(f'There is no impl={short(impl)}; choose one of {", ".join(IMPLS)}.')
    found: list[Entry] = []
    for size in SIZES:
        tags = tags_of(size)
        found += [_entry(size, tag, of_tag) for tag, of_tag in tags.items()]
        if not pretrained:
            found += [_entry(size, None, other) for other in list_impls(size) if other not in tags.values()]
    return [entry for entry in found if known in (None, entry.impl)]


def _entry(size: str, tag: str | None, impl: str) -> Entry:
    name = f'{size}.{tag}' if tag else size
    params, gmacs = COSTS[name, impl]
    cfg = weights_cfg(name) if tag else untrained_cfg(size)
    in_chans, _, img_size = cfg['input_size']
    default = (tag or impl) == next(iter(tags_of(size) or list_impls(size)))
    network = dict(name=name, tag=tag, impl=impl, params=params, gmacs=gmacs, default=default)
    network |= dict(img_size=img_size, in_chans=in_chans, num_classes=cfg['num_classes'])
    if tag is None:
        return Entry(**network)
    weights = WEIGHTS[name]
    source = cfg.get('url') or weights.hf_hub_id
    return Entry(
        **network,
        top1=weights.top1,
        license=cfg['license'],
        source=source or 'bundled',
        cached=local_file(name) is not None,
        download=4 * params if source else 0,
        trained_on=weights.data,
    )


def entries_of(name: str) -> list[Entry]:
    """The entries of a name of ours or of timm's: one for a name with a tag, else all of a size.

    Raises:
        UnknownNameError: If the name does not exist.
    """
    ours = our_name(name)
    found = [entry for entry in entries() if ours in (entry.name, entry.name.partition('.')[0])]
    if not found:
        raise UnknownNameError(no_such(name))
    return found


def full_names(names: Sequence[str]) -> list[str]:
    """The names of weights, ours or timm's, as names of ours with tags. A size alone means its default weights.

    Raises:
        UnknownNameError: If a name does not exist or has no weights.
    """
    full = []
    for name in names:
        tagged = [entry.name for entry in entries_of(name) if entry.tag]
        if not tagged:
            sizes = dict.fromkeys(known.partition('.')[0] for known in WEIGHTS)
            raise UnknownNameError(f'No weights are published for {name}; there are weights for {", ".join(sizes)}.')
        full.append(tagged[0])
    return list(dict.fromkeys(full))


def local_file(name: str) -> Path | None:
    """The file of weights on this machine, or None. The name has a tag."""
    weights = WEIGHTS[name]
    if weights.release:
        file = release_file(weights.release, weights.md5)
        return file if os.path.isfile(file) else None
    return cached_weights(weights.hf_hub_id) if weights.hf_hub_id else bundled_file(name)


def pull(name: str) -> Path:
    """The file of weights, downloaded if it is missing or damaged. The name has a tag.

    Raises:
        HubError: If the file cannot be fetched.
    """
    weights = WEIGHTS[name]
    if weights.release:
        return fetch_release(weights.release, weights.md5, mend=True)
    return fetch_weights(weights.hf_hub_id, mend=True) if weights.hf_hub_id else bundled_file(name)


def verify(name: str) -> tuple[bool, str]:
    """Compare the file of weights with the hash that its source declared, without a network. The name has a tag.

    Returns:
        Whether the file is on this machine and has that hash, and a line about it.
    """
    weights, file = WEIGHTS[name], local_file(name)
    if file is None:
        return False, f'not in the cache; `coatnet-zoo pull {name}` downloads it'
    if not weights.hf_hub_id and not weights.release:
        return True, 'bundled with the package'
    declared = weights.md5 or declared_digest(file)
    if declared is None:
        return False, f'{file} cannot be verified: the cache has no hash of it'
    try:
        damage = damage_of(file, declared)
    except OSError as e:
        return False, f'{file} cannot be read: {e.strerror}'
    if damage:
        return False, f'{file} is damaged: {damage}; repair it with `coatnet-zoo pull {name}`'
    return True, f'{file} matches the declared hash ({declared})'
