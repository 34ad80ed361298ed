"""The classifier of a checkpoint: it may be replaced, left out, or beside the network."""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch

from ..errors import CheckpointError, shown
from .adapter import Checkpoint

# What training keeps, and no network computes with.
_OF_TRAINING = re.compile(r'loss|criterion|metric|confmat|(?:class|pos)_weight|(?:^|_)acc(?:[._]|uracy)', re.IGNORECASE)

Tensors = dict[str, torch.Tensor]


def plain_head(checkpoint: Checkpoint, own: str, parts: Collection[str], width: int, head: bool = True) -> Checkpoint:
    """Give the classifier the names that it has in the network's code, or leave it out.

    The classifier may be inside of a `Sequential`, such as `fc.1.weight` after a dropout, or behind or beside the
    network, such as `head.weight` after a `backbone` without a classifier. What is left out moves to `beside`.

    `own` is the name of the classifier in the network's code, which takes `width` values; `parts` are the names of all
    parts of the network.

    Raises:
        CheckpointError: If the network is followed by anything else than one linear layer.
    """
    inside: Tensors = {}
    network: Tensors = {}
    behind: Tensors = {}
    beside = dict(checkpoint.beside)
    unknown = _names_behind(checkpoint.tensors, own, parts)
    for name, tensor in checkpoint.tensors.items():
        of_training = _part(name) not in parts and _OF_TRAINING.search(name)
        last = inside if name.startswith(f'{own}.') else behind if name in unknown else network
        (beside if of_training else last)[name] = tensor
    if not head:
        return replace(checkpoint, tensors=network, beside={**beside, **behind, **inside})
    followers = inside or {**behind, **_followers(beside, width)}
    layer = _linear(followers, width)
    # A layer is the classifier only if nothing follows it.
    after = {**behind, **_followers(beside, width if layer is None else len(layer[0]), norms=not inside)}
    if followers and (layer is None or not after.keys() <= followers.keys()):
        names = ', '.join(map(shown, [*{**followers, **after}][:4]))
        raise CheckpointError(
            f'After the network, the checkpoint has {names} instead of one linear layer with {width} inputs like {own}'
            '; leave out what follows the network with head=False (--no-head).'
        )
    named = dict(zip((f'{own}.weight', f'{own}.bias'), layer or (), strict=False))
    rest = {name: tensor for name, tensor in beside.items() if name not in followers}
    assumed = f'{shown(next(iter(followers)))} is the classifier' if followers and not inside else ''
    return replace(checkpoint, tensors={**network, **named}, beside=rest, assumed=assumed)


def _names_behind(tensors: Mapping[str, torch.Tensor], own: str, parts: Collection[str]) -> set[str]:
    """The names of no part of the network, after its parts unless names are sorted, as safetensors sorts them."""
    names, floats = list(tensors), [name for name, tensor in tensors.items() if tensor.is_floating_point()]
    known = [name for name in names if _part(name) in parts and not name.startswith(f'{own}.')]
    start = names.index(known[-1]) if known and floats != sorted(floats) else 0
    return {name for name in names[start:] if _part(name) not in parts}


def _followers(tensors: Tensors, width: int, norms: bool = True) -> Tensors:
    """The tensors of the parts beside a network that could take `width` values, or pool with a power `p` (GeM)."""

    def takes(name: str, tensor: torch.Tensor) -> bool:
        inputs = {1: tensor.shape[-1:] if norms else (), 2: tensor.shape[1:], 4: tensor.shape[1:2]}
        is_layer = tensor.is_floating_point() and not _OF_TRAINING.search(name)
        takes_all = tuple(inputs.get(tensor.ndim, ())) == (width,)
        return is_layer and (takes_all or (norms and name.endswith('.p')))

    firsts = {_part(name) for name, tensor in tensors.items() if takes(name, tensor)}
    return {name: tensor for name, tensor in tensors.items() if _part(name) in firsts}


def _part(name: str) -> str:
    return name.partition('.')[0]


def _linear(tensors: Tensors, width: int) -> tuple[torch.Tensor, ...] | None:
    """Weight and bias, if tensors are those of one linear layer that takes `width` values."""
    layers = {name.rpartition('.')[0] for name in tensors}
    by_kind = {name.rpartition('.')[2]: tensor for name, tensor in tensors.items()}
    is_plain = len(layers) == 1 and 'weight' in by_kind and by_kind.keys() <= {'weight', 'bias'}
    if not is_plain or by_kind['weight'].shape[1:] != (width,):
        return None
    return tuple(by_kind[kind] for kind in ('weight', 'bias') if kind in by_kind)
