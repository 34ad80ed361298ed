"""What a conversion starts from: the network of a checkpoint, its tensors and its preprocessing."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from ..errors import CheckpointError
from ..registry import field_types, resolve_cfg, short
from .adapter import translate
from .checkpoint import Checkpoint
from .heads import plain_head
from .recognition import TABLE, identify, is_timms

_CLASSIFIER = 'head.fc'
_PARTS = ('stem', 'stages', 'norm', 'head')
_FIRST_CONV = 'stem.conv1.weight'
# The fields of a pretrained configuration that tell where weights come from.
_ORIGIN = (
    *('tag', 'license', 'origin_url', 'description', 'paper_ids', 'paper_name', 'notes'),
    *('label_names', 'label_descriptions', 'url', 'file', 'hf_hub_id', 'hf_hub_filename', 'source'),
)


@dataclass(frozen=True)
class Source:
    """The network of a checkpoint.

    Attributes:
        name: The name for `timm.create_model`.
        arguments: The arguments for `timm.create_model`.
        model: The network on the meta device.
        tensors: Tensors by the names of the network.
        preprocessing: The mean, std, interpolation and crop_pct of the weights; other fields of timm's data_config.
        left_out: The names of the tensors beside the network.
        names: The name of a tensor in the checkpoint, by its name in the network, if the names differ.
        assumes: Whether the checkpoint does not tell its preprocessing.
    """

    name: str
    arguments: dict[str, Any]
    model: nn.Module
    tensors: dict[str, torch.Tensor]
    preprocessing: dict[str, Any]
    left_out: tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    assumes: bool = True


def third_party_source(checkpoint: Checkpoint, src: str, head: bool, img_size: int | None) -> Source | None:
    """The network of a checkpoint of a third-party code; None if no third-party code wrote the checkpoint.

    Args:
        checkpoint: The checkpoint.
        src: The file in messages.
        head: Keep the classifier.
        img_size: Height and width in pixels, if the file has no size.

    Raises:
        CheckpointError: If the tensors are not those of one network, or have another `img_size`.
    """
    translation = translate(checkpoint, head)
    if translation is None:
        return None
    structure, impl, code = translation.structure, translation.impl, translation.code
    size, arguments = structure.as_registered(impl)
    arguments |= dict(impl=impl, img_size=_input_size(structure.img_size, img_size, (224, 224)))
    try:
        model = timm.create_model(size, **arguments, device='meta')
    except ValueError as e:
        raise CheckpointError(f'{src} has a structure that impl={impl!r} does not have: {e}') from e
    imagenet = dict(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
    return Source(
        size,
        arguments,
        model,
        translation.tensors,
        dict(imagenet, interpolation=code.interpolation, crop_pct=code.crop_pct),
        translation.left_out,
        translation.third_party_names,
    )


def own_source(checkpoint: Checkpoint, src: str, head: bool, img_size: int | None) -> Source | None:
    """The registered network of a state dict of this package; None if it is of no registered network, or timm's.

    Arguments and errors are those of `third_party_source`.
    """
    known = identify(checkpoint.tensors)
    if known is None or known.size is None or is_timms(checkpoint.tensors):
        return None
    fields = {k: v for k, v in known.args.items() if k in field_types()}
    width = resolve_cfg(known.size, known.impl, **fields).stage_widths[-1][-1]
    checkpoint = plain_head(checkpoint, _CLASSIFIER, _PARTS, width, head)
    arguments = dict(identify(checkpoint.tensors).args, impl=known.impl)
    model = timm.create_model(known.size, **arguments, device='meta')
    has_size = any(name.endswith(TABLE) for name in checkpoint.tensors)
    size = _input_size(model.img_size if has_size else None, img_size, model.img_size)
    if size != model.img_size:
        arguments['img_size'] = size
        model = timm.create_model(known.size, **arguments, device='meta')
    preprocessing = {k: model.pretrained_cfg[k] for k in ('mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')}
    forget_origin(model)
    return Source(known.size, arguments, model, dict(checkpoint.tensors), preprocessing, tuple(checkpoint.beside))


def forget_origin(model: nn.Module) -> None:
    """Remove from the configuration of a model what is only true for the published weights of its name."""
    model.pretrained_cfg = {k: v for k, v in model.pretrained_cfg.items() if k not in _ORIGIN}


def with_three_channels(source: Source, src: str, in_chans: int) -> Source:
    """The network for images of three channels that gives the same logits for grey images.

    Every filter of the first convolution is spread over the three channels.

    Raises:
        CheckpointError: If `in_chans` is not 3, or if the network does not take images of one channel.
    """
    if (source.model.in_chans, in_chans) != (1, 3):
        raise CheckpointError(
            f'in_chans={short(in_chans)} is not possible for {src}, which has in_chans={source.model.in_chans}; only '
            'three channels can be made, and only of one.'
        )
    arguments = dict(source.arguments, in_chans=3)
    model = timm.create_model(source.name, **arguments, device='meta')
    model.pretrained_cfg = dict(source.model.pretrained_cfg, input_size=model.pretrained_cfg['input_size'])
    tensors = {**source.tensors, _FIRST_CONV: source.tensors[_FIRST_CONV].repeat(1, 3, 1, 1) / 3}
    return replace(source, arguments=arguments, model=model, tensors=tensors)


def _input_size(trained: tuple[int, int] | None, img_size: int | None, default: tuple[int, int]) -> tuple[int, int]:
    if img_size is None:
        return trained or default
    if trained not in (None, (img_size, img_size)):
        raise CheckpointError(f'img_size={img_size} was given, but the checkpoint was trained at {trained}.')
    return img_size, img_size
