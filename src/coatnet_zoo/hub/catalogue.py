"""The catalogue: every name, implementation and set of weights, and where the files of the weights are."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..registry import (
    COSTS,
    IMPLS,
    RELEASE_HOST,
    SIZES,
    WEIGHTS,
    list_impls,
    no_such,
    our_name,
    shipped_file,
    short,
    tags_of,
    untrained_cfg,
    weights_cfg,
)
from .fetch import cached_weights, fetch_weights, stored_weights
from .integrity import Stored
from .releases import fetch_release, release_file, stored_release

SHIPPED = 'shipped'
_BYTES = 4  # for each parameter


@dataclass(frozen=True)
class Entry:
    """One set of weights, or one network that has no published weights.

    Without weights, the tag, accuracy, licence, source, `cached`, `download` and `trained_on` are None.

    Attributes:
        name: The name for `timm.create_model`. A network without weights also needs `impl`.
        tag: Tag of the weights.
        impl: Implementation.
        params: Number of parameters, classifier included.
        gmacs: Multiply-adds in billions, for one image of `img_size`.
        img_size: Native height and width in pixels.
        num_classes: Number of classes.
        top1: Accuracy in percent; None if no accuracy is published.
        license: Identifier of the licence, as on the Hub.
        source: Repository on the Hub, URL, or 'shipped'.
        cached: Whether the file is on this machine.
        default: Whether `timm.create_model` with the size alone means this entry.
        download: Bytes of the file to download, within about 1 %; 0 if the file is shipped.
        in_chans: Channels of the images.
        trained_on: The training data of the weights.
    """

    name: str
    tag: str | None
    impl: str
    params: int
    gmacs: float
    img_size: int
    num_classes: int
    top1: float | None
    license: str | None
    source: str | None
    cached: bool | None
    default: bool
    download: int | None
    in_chans: int
    trained_on: str | None


def entries(pretrained: bool = False, impl: str | None = None) -> list[Entry]:
    """The catalogue by size; in a size, default weights come first, then other weights, then networks without weights.

    Args:
        pretrained: Leave out networks that have no weights.
        impl: Leave out the other implementations. The case of letters does not matter.

    Raises:
        ValueError: If no network has this implementation.
    """
    known = impl and impl.lower()
    if known is not None and known not in IMPLS:
        raise ValueError(f'There is no impl={short(impl)}; there are {", ".join(IMPLS)}.')
    found: list[Entry] = []
    for size in SIZES:
        tags = tags_of(size)
        found += [_with_weights(f'{size}.{tag}') for tag in tags]
        if not pretrained:
            found += [_without_weights(size, i) for i in list_impls(size) if i not in tags.values()]
    return [entry for entry in found if known in (None, entry.impl)]


def _with_weights(name: str) -> Entry:
    weights, cfg = WEIGHTS[name], weights_cfg(name)
    params, gmacs = COSTS[name, weights.impl]
    return Entry(
        name=name,
        tag=name.partition('.')[2],
        impl=weights.impl,
        params=params,
        gmacs=gmacs,
        img_size=cfg['input_size'][-1],
        num_classes=cfg['num_classes'],
        top1=weights.top1,
        license=cfg['license'],
        source=weights.hf_hub_id or (f'{RELEASE_HOST}/{weights.release}' if weights.release else SHIPPED),
        cached=local_file(name) is not None,
        default=name.partition('.')[2] == next(iter(tags_of(name.partition('.')[0]))),
        download=_BYTES * params if weights.hf_hub_id or weights.release else 0,
        in_chans=cfg['input_size'][0],
        trained_on=weights.data,
    )


def _without_weights(size: str, impl: str) -> Entry:
    (params, gmacs), cfg = COSTS[size, impl], untrained_cfg(size)
    return Entry(
        name=size,
        tag=None,
        impl=impl,
        params=params,
        gmacs=gmacs,
        img_size=cfg['input_size'][-1],
        num_classes=cfg['num_classes'],
        top1=None,
        license=None,
        source=None,
        cached=None,
        default=not tags_of(size) and impl == list_impls(size)[0],
        download=None,
        in_chans=cfg['input_size'][0],
        trained_on=None,
    )


def entries_of(name: str) -> list[Entry]:
    """The entries of a name: one entry for a name with a tag, all entries of a size for a name without a tag.

    Args:
        name: A name of this package, or timm's name of weights that this package has.

    Raises:
        ValueError: If the name does not exist.
    """
    ours = our_name(name)
    found = [entry for entry in entries() if ours in (entry.name, entry.name.partition('.')[0])]
    if not found:
        raise ValueError(no_such(name))
    return found


def full_names(names: Sequence[str]) -> list[str]:
    """The names of weights with their tags. A size without a tag means its default weights.

    Args:
        names: Names of this package, or timm's names of weights that this package has.

    Raises:
        ValueError: If a name does not exist or has no weights.
    """
    full = []
    for name in map(our_name, names):
        tags = tags_of(name)
        if name not in WEIGHTS and not tags:
            sizes = dict.fromkeys(known.partition('.')[0] for known in WEIGHTS)
            has_none = f'No weights are published for {name}; there are weights for {", ".join(sizes)}.'
            raise ValueError(has_none if name in SIZES else no_such(name))
        full.append(f'{name}.{next(iter(tags))}' if tags else name)
    return list(dict.fromkeys(full))


def local_file(name: str) -> Path | None:
    """The file of weights on this machine, or None.

    Args:
        name: Name of the weights, with tag.
    """
    weights = WEIGHTS[name]
    if weights.release:
        file = release_file(weights.release, weights.md5)
        return file if os.path.isfile(file) else None
    return cached_weights(weights.hf_hub_id) if weights.hf_hub_id else shipped_file(name)


def stored_file(name: str) -> Stored | None:
    """The file of published weights that is on this machine, with its declared hash, or None.

    Args:
        name: Name of the weights, with tag. The weights must not be shipped weights.

    Raises:
        OSError: If the cache has something else in place of the file.
    """
    weights = WEIGHTS[name]
    return stored_release(weights.release, weights.md5) if weights.release else stored_weights(weights.hf_hub_id)


def fetch_file(name: str, mend: bool = False) -> Path:
    """The file of weights, downloaded if necessary.

    Args:
        name: Name of the weights, with tag.
        mend: Replace a damaged file instead of raising.

    Raises:
        HubError: If the file cannot be fetched, or is damaged.
        CheckpointError: If the weights are a `.h5` file on a release page, and h5py is missing.
    """
    weights = WEIGHTS[name]
    if weights.release:
        return fetch_release(weights.release, weights.md5, mend=mend)
    return fetch_weights(weights.hf_hub_id, mend=mend) if weights.hf_hub_id else shipped_file(name)
