"""What a conversion starts from: the call that builds the network of a checkpoint, its tensors, its preprocessing."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from ..errors import CheckpointError, shown
from .adapter import Checkpoint, Structure, find_adapter, third_party_codes
from .heads import plain_head
from .recognition import Known, identify, square_size

_PARTS = ('stem', 'stages', 'norm', 'head')
# Layers that compute nothing in evaluation mode, and the other layers that a head of one linear layer may have.
_NOTHING = {'Identity', 'Dropout', 'Dropout2d', 'DropPath'}
_OF_HEADS = {'Sequential', 'Flatten', 'AdaptiveAvgPool2d', 'Linear'}


@dataclass(frozen=True)
class Source:
    """The network of a checkpoint."""

    name: str  # for timm.create_model, as the arguments
    arguments: dict[str, Any]
    tensors: Mapping[str, torch.Tensor]  # by the names of the network
    preprocessing: Callable[[nn.Module], dict[str, Any]]  # timm's data_config for the model
    has_size: bool  # whether the checkpoint shows the size of its images
    left_out: tuple[str, ...]  # the names of the tensors beside the network
    names: Mapping[str, str] = field(default_factory=dict)  # in the checkpoint, where they differ
    is_assumed: bool = True  # the preprocessing
    assumed_network: str = ''  # what the tensors do not show, as text
    is_tuned: bool = False  # started from published weights, whose license then holds
    structure: Structure | None = None  # of third-party code


def translate(checkpoint: Checkpoint, head: bool = True) -> Source | None:
    """The network of a checkpoint of third-party code, without classifier if not `head`; None for other checkpoints.

    Raises:
        CheckpointError: If a tensor is missing, does not belong to such a network or has an impossible shape.
    """
    found = find_adapter(checkpoint.tensors)
    if found is None:
        return None
    impl, adapter = found
    if hasattr(adapter, 'prepare'):
        checkpoint = adapter.prepare(checkpoint, head)
    structure = adapter.infer_structure(checkpoint)
    targets = adapter.tensor_map(structure)
    tensors = {name: target.default for name, target in targets.items() if target.default is not None}
    tensors |= checkpoint.tensors
    _check_names(tensors, targets, impl)
    names = {target.name: name for name, target in targets.items() if target.name is not None and name in tensors}
    mapped = {
        ours: _rearrange(theirs, tensors[theirs], targets[theirs].layout, impl, structure.dim_head)
        for ours, theirs in names.items()
    }
    for name in names:
        if name.endswith('running_var'):
            mapped.setdefault(name.replace('running_var', 'num_batches_tracked'), torch.tensor(0))
    if not head:
        mapped = {name: tensor for name, tensor in mapped.items() if not name.startswith('head.fc.')}
        structure = replace(structure, num_classes=0, head_bias=None)
    code = third_party_codes()[impl]
    size, arguments = structure.as_registered(impl)
    arguments |= dict(impl=impl, img_size=structure.img_size or (224, 224))
    assumed = dict(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
    assumed |= dict(interpolation=code.interpolation, crop_pct=code.crop_pct)
    facts, has_size = ', '.join(filter(None, (code.assumed, checkpoint.assumed))), structure.img_size is not None
    return Source(
        size, arguments, mapped, lambda _: assumed, has_size, tuple(checkpoint.beside), names, assumed_network=facts,
        structure=structure,
    )  # fmt: skip


def _rearrange(name: str, tensor: torch.Tensor, layout: str | None, impl: str, dim_head: int) -> torch.Tensor:
    from einops import EinopsError, rearrange  # slow to import, and only these checkpoints need it

    if layout is None:
        return tensor
    axes = dict(three=3, d=dim_head) if 'three' in layout else {}
    try:
        return rearrange(tensor, layout, **axes).contiguous()
    except EinopsError as e:
        raise CheckpointError(
            f'The tensor {name} of the {impl} checkpoint has shape {tuple(tensor.shape)}, which is not of the form '
            f'{layout.partition(" ->")[0]!r}.'
        ) from e


def _check_names(present: Collection[str], expected: Collection[str], impl: str) -> None:
    # Files from before torch 0.4.1, and all files of Keras, have no counters of batches.
    missing = [name for name in expected if name not in present and not name.endswith('num_batches_tracked')]
    surplus = sorted(set(present).difference(expected))
    for names, problem in ((surplus, 'has unexpected tensors'), (missing, 'lacks tensors')):
        if names:
            more = f' and {len(names) - 4} more' if len(names) > 4 else ''
            raise CheckpointError(f'The {impl} checkpoint {problem}: {", ".join(map(shown, names[:4]))}{more}.')


def own_source(checkpoint: Checkpoint, head: bool) -> Source | None:
    """The registered network of a state dict of this package or of timm; None for any other state dict."""
    checkpoint, known = with_own_head(checkpoint, head)
    if known is None:
        return None
    fields = ('mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')
    has_size = square_size(checkpoint.tensors, known.cfg.patch_size) is not None
    return Source(
        known.size, dict(known.args, impl=known.impl), checkpoint.tensors,
        lambda model: {name: model.pretrained_cfg[name] for name in fields}, has_size, tuple(checkpoint.beside),
        assumed_network=checkpoint.assumed,
    )  # fmt: skip


def with_own_head(checkpoint: Checkpoint, head: bool = True) -> tuple[Checkpoint, Known | None]:
    """A checkpoint of this package or of timm with its classifier as `head.fc`, or without; and its network.

    Raises:
        CheckpointError: If the checkpoint is of a network of timm that this package does not have.
    """
    known, parts = identify(checkpoint.tensors), _PARTS
    if known is None:  # the head may be another module, such as a Sequential
        known = identify({name: t for name, t in checkpoint.tensors.items() if not name.startswith('head.')})
        parts = _PARTS[:-1]
    if known is None:
        return checkpoint, None
    if known.size is None:
        raise CheckpointError(f"The checkpoint is {known.title}, with blocks that are not here; load it into timm's.")
    if checkpoint.layers:
        _check_layers(checkpoint, known, head)
    checkpoint = plain_head(checkpoint, 'head.fc', parts, known.cfg.stage_widths[-1][-1], head)
    return checkpoint, identify(checkpoint.tensors)


def _check_layers(checkpoint: Checkpoint, known: Known, head: bool) -> None:
    """Refuse a pickled module with other layers than the network that its tensors fit."""
    own = {path: type(m).__name__ for path, m in timm.create_model(**known.reference, device='meta').named_modules()}
    for path, layer in checkpoint.layers.items():
        kind, expected = layer['kind'].rpartition('.')[2], own.get(path, 'Identity')
        is_head = path.startswith('head') and (not head or kind in _OF_HEADS | _NOTHING)
        if kind != expected and not is_head and not {kind, expected} <= _NOTHING:
            way = ', which head=False (--no-head) leaves out' if path.startswith('head') else ''
            raise CheckpointError(f'The checkpoint is {known.title} but its {shown(path)} is {shown(kind)}{way}.')
