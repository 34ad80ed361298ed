"""The catalogue: every name, implementation and set of weights, and where the files of the weights are."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..tables import COSTS, IMPLS, RELEASE_HOST, SIZES, WEIGHTS, list_impls, shipped_file, short, tags_of, weights_cfg
from .fetch import cached_weights, fetch_weights, stored_weights
from .integrity import Stored
from .releases import fetch_release, release_file, stored_release

SHIPPED = 'shipped'


@dataclass(frozen=True)
class Entry:
    """One set of weights, or one network that has no published weights.

    Without weights, the tag, accuracy, licence, source and `cached` are None.

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


def entries(pretrained: bool = False, impl: str | None = None) -> list[Entry]:
    """The catalogue by size; in a size, default weights come first, then other weights, then networks without weights.

    Args:
        pretrained: Leave out networks that have no weights.
        impl: Leave out the other implementations.

    Raises:
        ValueError: If no network has this implementation.
    """
    if impl is not None and impl not in IMPLS:
        raise ValueError(f'There is no impl={short(impl)}; there are {", ".join(IMPLS)}.')
    found: list[Entry] = []
    for size in SIZES:
        tags = tags_of(size)
        found += [_with_weights(f'{size}.{tag}') for tag in tags]
        if not pretrained:
            found += [_without_weights(size, i) for i in list_impls(size) if i not in tags.values()]
    return [entry for entry in found if impl in (None, entry.impl)]


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
    )


def _without_weights(size: str, impl: str) -> Entry:
    params, gmacs = COSTS[size, impl]
    return Entry(size, None, impl, params, gmacs, 224, 1000, None, None, None, None)


def entries_of(name: str) -> list[Entry]:
    """The entries of a name: one entry for a name with a tag, all entries of a size for a name without a tag.

    Raises:
        ValueError: If the name does not exist.
    """
    found = [entry for entry in entries() if name in (entry.name, entry.name.partition('.')[0])]
    if not found:
        raise ValueError(f'There is no {short(name)}; there are {", ".join([*SIZES, *WEIGHTS])}.')
    return found


def full_names(names: Sequence[str]) -> list[str]:
    """The names of weights with their tags. A size without a tag means its default weights.

    Raises:
        ValueError: If a name does not exist or has no weights.
    """
    full = [f'{name}.{next(iter(tags_of(name)))}' if tags_of(name) else name for name in names]
    for name in full:
        if name not in WEIGHTS:
            raise ValueError(f'There are no weights {short(name)}; there are {", ".join(WEIGHTS)}.')
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
