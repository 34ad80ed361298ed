"""Finding a network among the names of tensors: wrappers put a prefix before its names, and tensors of their own."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..errors import CheckpointError, shown
from .adapter import recognised

_USUAL = re.compile(r'^(?:module\.|model\.|_orig_mod\.|net\.)+')
_MAX_DEPTH = 8
# A network has more tensors than that.
_FEW = 8

Tensors = dict[str, torch.Tensor]


def find_networks(names: Iterable[Any]) -> list[str]:
    """The prefixes under which the names of a known network are; the prefix may be empty."""
    found = []
    level: dict[str, list[str]] = {'': [name for name in names if isinstance(name, str)]}
    for _ in range(_MAX_DEPTH):
        deeper: dict[str, list[str]] = {}
        for prefix, rests in level.items():
            if recognised(dict.fromkeys(rests)):
                found.append(prefix)
            for rest in rests:
                first, dot, last = rest.partition('.')
                if dot:
                    deeper.setdefault(f'{prefix}{first}.', []).append(last)
        level = {prefix: rests for prefix, rests in deeper.items() if len(rests) > _FEW}
    return found


def split(tensors: Mapping[str, torch.Tensor], prefix: str | None, ema: bool, name: str) -> tuple[Tensors, Tensors]:
    """Take the tensors of the network out of all tensors.

    Args:
        tensors: Tensors by name.
        prefix: The prefix of the network; None: the only prefix with a known network.
        ema: Of two networks, take the one whose prefix contains `ema`.
        name: Name of the checkpoint in errors.

    Returns:
        The tensors of the network without the prefix, and the other tensors, except those of other networks.

    Raises:
        CheckpointError: If there are two networks and no prefix, or if no name has the prefix.
    """
    found = find_networks(tensors)
    if prefix is None and not found:
        if ema:
            raise _no_average(name)
        return _without_usual(tensors, name), {}
    chosen = _choose(found, ema, name) if prefix is None else prefix + '.' * (prefix[-1:] not in ('', '.'))
    others = [other for other in found if other != chosen]
    network, beside = {}, {}
    for key, value in tensors.items():
        # Of all prefixes of a name, the longest is the network that the tensor belongs to.
        owner = max((one for one in (chosen, *others) if key.startswith(one)), key=len, default=None)
        if owner == chosen:
            network[key.removeprefix(chosen)] = value
        elif owner is None:
            beside[key] = value
    if not network:
        firsts = dict.fromkeys(key.partition('.')[0] for key in tensors)
        raise CheckpointError(
            f'{name} has no tensor under the prefix {shown(chosen)}; its names begin with '
            f'{", ".join(map(shown, list(firsts)[:8]))}.'
        )
    return network, beside


def _choose(found: list[str], ema: bool, name: str) -> str:
    averages = [prefix for prefix in found if 'ema' in prefix.lower()]
    fitting = averages if ema else [prefix for prefix in found if prefix not in averages] or averages
    if ema and not averages:
        raise _no_average(name)
    if len(fitting) > 1:
        raise CheckpointError(
            f'{name} has a CoAtNet more than once, under the prefixes '
            f'{" and ".join(repr(shown(prefix)) for prefix in fitting[:4])}; choose one by prefix (--prefix).'
        )
    return fitting[0]


def _without_usual(tensors: Mapping[str, torch.Tensor], name: str) -> Tensors:
    stripped: Tensors = {}
    for key, value in tensors.items():
        short = _USUAL.sub('', key)
        if short in stripped:
            raise CheckpointError(f'{name} has {shown(short)} more than once, under different prefixes.')
        stripped[short] = value
    return stripped


def _no_average(name: str) -> CheckpointError:
    return CheckpointError(f'{name} has no moving average of its weights; leave out the EMA option.')
