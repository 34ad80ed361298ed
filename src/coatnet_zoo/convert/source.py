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
from .checkpoint import Checkpoint
from .codes import translate
from .heads import plain_head
from .recognition import identify, is_timms
from .structure import Structure

CLASSIFIER = 'head.fc.'
_PARTS = ('stem', 'stages', 'norm', 'head')
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
        structure: The structure of the network.
        preprocessing: The mean, std, interpolation and crop_pct of the weights; other fields of timm's data_config.
        what: The checkpoint in messages.
        names: The name of a tensor in the checkpoint, by its name in the network, if the names differ.
        assumes: Whether the checkpoint does not tell its preprocessing.
        left_out: The names of the tensors beside the network.
    """

    name: str
    arguments: dict[str, Any]
    model: nn.Module
    tensors: dict[str, torch.Tensor]
    structure: Structure
    preprocessing: dict[str, Any]
    what: str
    names: Mapping[str, str] = field(default_factory=dict)
    assumes: bool = True
    left_out: tuple[str, ...] = ()


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
    structure, impl = translation.structure, translation.impl
    size, arguments = structure.as_registered(impl)
    arguments |= dict(impl=impl, img_size=_input_size(structure.img_size, img_size, (224, 224)))
    try:
        model = timm.create_model(size, **arguments, device='meta')
    except ValueError as e:
        raise CheckpointError(f'{src} has a structure that impl={impl!r} does not have: {e}') from e
    return Source(
        size,
        arguments,
        model,
        translation.tensors,
        structure,
        dict(
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
            interpolation=translation.code.interpolation,
            crop_pct=translation.code.crop_pct,
        ),
        f'the {impl} checkpoint',
        translation.third_party_names,
        left_out=translation.left_out,
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
    checkpoint = plain_head(checkpoint, CLASSIFIER.removesuffix('.'), _PARTS, width, head)
    known = identify(checkpoint.tensors)
    arguments = dict(known.args, impl=known.impl)
    model = timm.create_model(known.size, **arguments, device='meta')
    has_size = any(name.endswith('relative_position_bias_table') for name in checkpoint.tensors)
    size = _input_size(model.img_size if has_size else None, img_size, model.img_size)
    if size != model.img_size:
        arguments['img_size'] = size
        model = timm.create_model(known.size, **arguments, device='meta')
    cfg = model.pretrained_cfg
    forget_origin(model)
    return Source(
        known.size,
        arguments,
        model,
        dict(checkpoint.tensors),
        structure_of(model),
        {name: cfg[name] for name in ('mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')},
        src,
        left_out=tuple(checkpoint.beside),
    )


def structure_of(model: nn.Module) -> Structure:
    """The structure of a network of this package."""
    names = ('stem_width', 'embed_dim', 'depths', 'block_types', 'num_heads', 'dim_head')
    return Structure(
        **{name: getattr(model.cfg, name) for name in names},
        in_chans=model.in_chans,
        num_classes=model.num_classes,
        img_size=model.img_size,
    )


def forget_origin(model: nn.Module) -> None:
    """Remove from the configuration of a model what is only true for the published weights of its name."""
    model.pretrained_cfg = {k: v for k, v in model.pretrained_cfg.items() if k not in _ORIGIN}


def with_three_channels(source: Source, in_chans: int) -> Source:
    """The network for images of three channels that gives the same logits for grey images.

    Every filter of the first convolution is spread over the three channels.

    Args:
        source: A network for images of one channel.
        in_chans: Must be 3.

    Raises:
        CheckpointError: If other numbers of channels are asked for.
    """
    if (source.structure.in_chans, in_chans) != (1, 3):
        raise CheckpointError(
            f'in_chans={short(in_chans)} is not possible for {source.what}, which takes images of '
            f'{source.structure.in_chans} channels; only three channels can be made, and only of one.'
        )
    arguments = dict(source.arguments, in_chans=3)
    model = timm.create_model(source.name, **arguments, device='meta')
    model.pretrained_cfg = dict(source.model.pretrained_cfg, input_size=model.pretrained_cfg['input_size'])
    first = f'{model.pretrained_cfg["first_conv"]}.weight'
    tensors = {**source.tensors, first: source.tensors[first].repeat(1, 3, 1, 1) / 3}
    return replace(source, arguments=arguments, model=model, tensors=tensors)


def _input_size(shown_size: tuple[int, int] | None, img_size: int | None, default: tuple[int, int]) -> tuple[int, int]:
    if shown_size is None:
        return default if img_size is None else (img_size, img_size)
    if img_size is not None and shown_size != (img_size, img_size):
        raise CheckpointError(f'img_size={img_size} was given, but the checkpoint was trained at {shown_size}.')
    return shown_size
