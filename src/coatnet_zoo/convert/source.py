"""What a conversion starts from: the call that builds the network of a checkpoint, its tensors, its preprocessing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from ..errors import CheckpointError
from .adapter import Checkpoint, third_party_codes, translate
from .heads import plain_head
from .recognition import Known, identify, square_size

_PARTS = ('stem', 'stages', 'norm', 'head')


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


def third_party_source(checkpoint: Checkpoint, head: bool) -> Source | None:
    """The network of a checkpoint of third-party code, without classifier if not `head`; None for other checkpoints.

    Raises:
        CheckpointError: If the tensors are not those of one network.
    """
    translation = translate(checkpoint, head)
    if translation is None:
        return None
    structure, impl = translation.structure, translation.impl
    code = third_party_codes()[impl]
    size, arguments = structure.as_registered(impl)
    arguments |= dict(impl=impl, img_size=structure.img_size or (224, 224))
    assumed = dict(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
    assumed |= dict(interpolation=code.interpolation, crop_pct=code.crop_pct)
    has_size, names = structure.img_size is not None, translation.third_party_names
    tensors, left_out = translation.tensors, translation.left_out
    facts = ', '.join(filter(None, (code.assumed, translation.assumed)))
    return Source(size, arguments, tensors, lambda _: assumed, has_size, left_out, names, assumed_network=facts)


def own_source(checkpoint: Checkpoint, head: bool) -> Source | None:
    """The registered network of a state dict of this package or of timm; None for any other state dict."""
    checkpoint, known = with_own_head(checkpoint, head)
    if known is None:
        return None
    fields = ('mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')
    return Source(
        known.size,
        dict(known.args, impl=known.impl),
        checkpoint.tensors,
        lambda model: {name: model.pretrained_cfg[name] for name in fields},
        has_size=square_size(checkpoint.tensors, known.cfg.patch_size) is not None,
        left_out=tuple(checkpoint.beside),
        assumed_network=checkpoint.assumed,
    )


def with_own_head(checkpoint: Checkpoint, head: bool = True) -> tuple[Checkpoint, Known | None]:
    """A checkpoint of this package or of timm with its classifier as `head.fc`, or without; and its network.

    Raises:
        CheckpointError: If the checkpoint is of a network of timm that this package does not have.
    """
    known = identify(checkpoint.tensors)
    if known is None:
        return checkpoint, None
    if known.size is None:
        raise CheckpointError(f"The checkpoint is {known.title}, with blocks that are not here; load it into timm's.")
    checkpoint = plain_head(checkpoint, 'head.fc', _PARTS, known.cfg.stage_widths[-1][-1], head)
    return checkpoint, identify(checkpoint.tensors)
