"""The classifier of a checkpoint: people replace it, leave it out, or put another classifier beside the network."""

import re
from collections.abc import Collection
from dataclasses import replace

import torch

from ..errors import CheckpointError, shown
from .adapter import Checkpoint

# What training keeps, and no network computes with.
_OF_TRAINING = re.compile('loss|criterion|metric', re.IGNORECASE)

Tensors = dict[str, torch.Tensor]


def plain_head(checkpoint: Checkpoint, own: str, parts: Collection[str], width: int, head: bool = True) -> Checkpoint:
    """Bring the classifier to the names that it has in the network's code, or leave it out.

    The classifier may be inside of a `Sequential`, such as `fc.1.weight` after a dropout, or beside the network, such
    as `head.weight` after a `backbone` without a classifier. What is left out moves to `beside`.

    Args:
        checkpoint: The checkpoint.
        own: The name of the classifier in the network's code; `parts` are the names of all parts of the network.
        width: The number of values that the classifier takes.
        head: Keep the classifier.

    Raises:
        CheckpointError: If the network is followed by anything else than one linear layer.
    """
    inside: Tensors = {}
    network: Tensors = {}
    strange: dict[str, Tensors] = {}
    for name, tensor in checkpoint.tensors.items():
        unknown = strange.setdefault(_part(name), {}) if _part(name) not in parts else network
        (inside if name.startswith(f'{own}.') else unknown)[name] = tensor
    beside = dict(checkpoint.beside)
    for group in strange.values():
        takes_over = (not inside or not head) and any(_takes(tensor, width) for tensor in group.values())
        # A part that is neither training's nor in place of the classifier changes what the network computes.
        (beside if takes_over or any(map(_OF_TRAINING.search, group)) else network).update(group)
    if not head:
        return replace(checkpoint, tensors=network, beside={**beside, **inside})
    layer = _linear(inside)
    if inside and layer is None:
        raise _not_one_layer(own, inside)
    outputs = width if layer is None else next(iter(layer[0].shape), 0)
    firsts = {
        _part(name)
        for name, tensor in beside.items()
        if not _OF_TRAINING.search(name) and _takes(tensor, outputs, norms=not inside)
    }
    followers = {name: tensor for name, tensor in beside.items() if _part(name) in firsts}
    if followers and (inside or (layer := _linear(followers)) is None):
        raise _not_one_layer(own, followers)
    named = dict(zip((f'{own}.weight', f'{own}.bias'), layer or (), strict=False))
    rest = {name: tensor for name, tensor in beside.items() if name not in followers}
    return replace(checkpoint, tensors={**network, **named}, beside=rest)


def _part(name: str) -> str:
    return name.partition('.')[0]


def _takes(tensor: torch.Tensor, width: int, norms: bool = True) -> bool:
    """Whether a tensor could belong to a layer that takes `width` values."""
    dims = (1, 2) if norms else (2,)
    return tensor.is_floating_point() and tensor.ndim in dims and tensor.shape[-1] == width


def _linear(tensors: Tensors) -> tuple[torch.Tensor, ...] | None:
    """Weight and bias, if tensors are those of one linear layer."""
    layers = {name.rpartition('.')[0] for name in tensors}
    by_kind = {name.rpartition('.')[2]: tensor for name, tensor in tensors.items()}
    if len(layers) != 1 or 'weight' not in by_kind or not by_kind.keys() <= {'weight', 'bias'}:
        return None
    return tuple(by_kind[kind] for kind in ('weight', 'bias') if kind in by_kind)


def _not_one_layer(own: str, names: Collection[str]) -> CheckpointError:
    return CheckpointError(
        f'After the network, the checkpoint has {", ".join(map(shown, list(names)[:4]))}, and not one linear layer as '
        f'{own} is; leave the classifier out by head=False (--no-head).'
    )
