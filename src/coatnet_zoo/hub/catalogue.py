"""The catalogue: every name, implementation and set of weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..registry import (
    COSTS,
    IMPLS,
    RELEASE_HOST,
    SIZES,
    WEIGHTS,
    list_impls,
    no_such,
    our_name,
    short,
    tags_of,
    untrained_cfg,
    weights_cfg,
)
from .weights import local_file

_BYTES = 4  # for each parameter


@dataclass(frozen=True)
class Entry:
    """One set of weights; or one network without published weights, which leaves None where a comment says weights."""

    name: str  # for `timm.create_model`; a network without weights also needs `impl`
    tag: str | None  # of the weights
    impl: str
    params: int  # with the classifier
    gmacs: float  # multiply-adds in billions, for one image of `img_size`
    img_size: int  # native height and width in pixels
    num_classes: int
    top1: float | None  # of the weights, in percent; None also if no accuracy is published
    license: str | None  # of the weights, as on the Hub
    source: str | None  # of the weights: repository on the Hub, URL, or 'bundled'
    cached: bool | None  # whether the file of the weights is on this machine
    default: bool  # whether `timm.create_model` with the size alone means this entry
    download: int | None  # of the weights, in bytes, within about 1 %; 0 if they are bundled
    in_chans: int  # channels of the images
    trained_on: str | None  # training data of the weights


def entries(pretrained: bool = False, impl: str | None = None) -> list[Entry]:
    """The catalogue by size; in a size, default weights come first, then other weights, then networks without weights.

    Args:
        pretrained: Leave out networks that have no weights.
        impl: Leave out the other implementations, in any case of letters. Raises a ValueError if there is no such.
    """
    known = impl and impl.lower()
    if known is not None and known not in IMPLS:
        raise ValueError(f'There is no impl={short(impl)}; there are {", ".join(IMPLS)}.')
    found: list[Entry] = []
    for size in SIZES:
        tags = tags_of(size)
        found += [_entry(size, tag, of_tag) for tag, of_tag in tags.items()]
        if not pretrained:
            found += [_entry(size, None, other) for other in list_impls(size) if other not in tags.values()]
    return [entry for entry in found if known in (None, entry.impl)]


def _entry(size: str, tag: str | None, impl: str) -> Entry:
    name = f'{size}.{tag}' if tag else size
    weights, cfg = WEIGHTS.get(name), weights_cfg(name) if tag else untrained_cfg(size)
    params, gmacs = COSTS[name, impl]
    source = download = None
    if weights:
        source = weights.hf_hub_id or (f'{RELEASE_HOST}/{weights.release}' if weights.release else 'bundled')
        download = 0 if source == 'bundled' else _BYTES * params
    return Entry(
        name=name,
        tag=tag,
        impl=impl,
        params=params,
        gmacs=gmacs,
        img_size=cfg['input_size'][-1],
        num_classes=cfg['num_classes'],
        top1=weights and weights.top1,
        license=cfg['license'] if weights else None,
        source=source,
        cached=local_file(name) is not None if weights else None,
        default=(tag or impl) == next(iter(tags_of(size) or list_impls(size))),
        download=download,
        in_chans=cfg['input_size'][0],
        trained_on=weights and weights.data,
    )


def entries_of(name: str) -> list[Entry]:
    """The entries of a name of ours or of timm's: one for a name with a tag, else all of a size.

    Raises:
        ValueError: If the name does not exist.
    """
    ours = our_name(name)
    found = [entry for entry in entries() if ours in (entry.name, entry.name.partition('.')[0])]
    if not found:
        raise ValueError(no_such(name))
    return found


def full_names(names: Sequence[str]) -> list[str]:
    """The names of weights, ours or timm's, as names of ours with tags. A size alone means its default weights.

    Raises:
        ValueError: If a name does not exist or has no weights.
    """
    full = []
    for name in names:
        tagged = [entry.name for entry in entries_of(name) if entry.tag]
        if not tagged:
            sizes = dict.fromkeys(known.partition('.')[0] for known in WEIGHTS)
            raise ValueError(f'No weights are published for {name}; there are weights for {", ".join(sizes)}.')
        full.append(tagged[0])
    return list(dict.fromkeys(full))
