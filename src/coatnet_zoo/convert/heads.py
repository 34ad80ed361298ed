"""The classifier of a checkpoint: people replace it, leave it out, or put another classifier beside the network."""

import re
from collections.abc import Collection
from dataclasses import replace

import torch

from ..errors import CheckpointError, shown
from .checkpoint import Checkpoint

# What training keeps, and no network computes with.
_OF_TRAINING = re.compile('loss|criterion|metric', re.IGNORECASE)

Tensors = dict[str, torch.Tensor]


def plain_head(checkpoint: Checkpoint, own: str, parts: Collection[str], width: int, head: bool = True) -> Checkpoint:
    """Bring the classifier to the names that it has in the network's code, or leave it out.

    The classifier may be inside of a `Sequential`, such as `fc.1.weight` after a dropout, or beside the network, such
    as `head.weight` after a `backbone` without a classifier.

    Args:
        checkpoint: The checkpoint.
        own: The name of the classifier in the network's code.
        parts: The names of all parts of the network in that code.
        width: The number of values that the classifier takes.
        head: Keep the classifier.

    Returns:
        A checkpoint without classifier, or with one linear layer of the name `own`. Tensors of losses and metrics have
        moved to `beside`.

    Raises:
        CheckpointError: If the network is followed by anything else than one linear layer.
    """
    inside = {k: v for k, v in checkpoint.tensors.items() if k.startswith(f'{own}.')}
    network = {k: v for k, v in checkpoint.tensors.items() if k not in inside}
    beside = dict(checkpoint.beside)
    strange: dict[str, Tensors] = {}
    for name, tensor in network.items():
        if (first := name.partition('.')[0]) not in parts:
            strange.setdefault(first, {})[name] = tensor
    # A layer that is neither training's nor in place of the classifier changes what the network computes.
    replaces = not inside or not head
    for group in strange.values():
        if any(_OF_TRAINING.search(name) or (replaces and _takes(t, width)) for name, t in group.items()):
            beside |= group
            network = {name: tensor for name, tensor in network.items() if name not in group}
    if not head:
        return replace(checkpoint, tensors=network, beside={**beside, **inside})
    layer = _linear(inside)
    if inside and layer is None:
        raise _not_one_layer(own, list(inside))
    outputs = width if layer is None else next(iter(layer[0].shape), 0)
    followers = [
        name
        for name, tensor in beside.items()
        if not _OF_TRAINING.search(name) and _takes(tensor, outputs, norms=not inside)
    ]
    if followers:
        firsts = tuple(dict.fromkeys(f'{name.partition(".")[0]}.' for name in followers))
        group = {k: v for k, v in beside.items() if k.startswith(firsts)}
        layer = _linear(group) if not inside else None
        if layer is None:
            raise _not_one_layer(own, list(group))
        beside = {k: v for k, v in beside.items() if k not in group}
    named = dict(zip((f'{own}.weight', f'{own}.bias'), layer or (), strict=False))
    return replace(checkpoint, tensors={**network, **named}, beside=beside)


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


def _not_one_layer(own: str, names: list[str]) -> CheckpointError:
    return CheckpointError(
        f'After the network, the checkpoint has {", ".join(map(shown, names[:4]))}, and not one linear layer as '
        f'{own} is; leave the classifier out by head=False (--no-head).'
    )
