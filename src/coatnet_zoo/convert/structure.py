"""The structure of a network as the tensors of a third-party checkpoint show it, in the same form for every code."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import CheckpointError, shown
from ..registry import SIZES, CoAtNetCfg, PerBlock, list_impls, resolve_cfg


@dataclass(frozen=True)
class Structure:
    """The structure of a network, read from the tensors of a checkpoint.

    Attributes:
        stem_width: Width of every stem convolution.
        embed_dim: Width of every stage; a tuple if the blocks of a stage differ.
        depths: Number of blocks of every stage.
        block_types: `C` or `T` for every stage; one letter for every block if the blocks of a stage differ.
        num_heads: Attention heads of every block; None if the width determines the heads.
        dim_head: Width of a head.
        in_chans: Channels of the image.
        num_classes: Number of classes; 0 if there is no classifier.
        img_size: (height, width) in pixels; None if no attention shows the size.
        expand_ratio: How many times wider MBConv and the feed-forward network are inside.
        head_bias: Whether the classifier has a bias; None: as in the implementation.
    """

    stem_width: tuple[int, ...]
    embed_dim: tuple[int | tuple[int, ...], ...]
    depths: tuple[int, ...]
    block_types: str | PerBlock
    num_heads: int | None
    dim_head: int
    in_chans: int
    num_classes: int
    img_size: tuple[int, int] | None
    expand_ratio: float = 4.0
    head_bias: bool | None = None

    def differences(self, cfg: CoAtNetCfg) -> dict[str, Any]:
        """The fields in which a configuration differs from this structure, with the values of this structure."""
        names = ('stem_width', 'embed_dim', 'depths', 'block_types', 'num_heads', 'dim_head')
        fields = {name: getattr(self, name) for name in names}
        fields |= dict(conv_expand_ratio=self.expand_ratio, mlp_ratio=self.expand_ratio)
        if self.head_bias is not None:
            fields['head_bias'] = self.head_bias
        if [set(types) for types in cfg.stage_types] == [{kind} for kind in self.block_types]:
            del fields['block_types']
        return {name: value for name, value in fields.items() if getattr(cfg, name) != value}

    def as_registered(self, impl: str) -> tuple[str, dict[str, Any]]:
        """The closest registered size, and the arguments of `timm.create_model` that make it exactly this structure.

        Args:
            impl: The implementation of the code that wrote the checkpoint.
        """
        sizes = [size for size in SIZES if impl in list_impls(size)]
        differences = {size: self.differences(resolve_cfg(size, impl)) for size in sizes}
        size = min(sizes, key=lambda s: len(differences[s]))
        arguments = differences[size]
        if self.in_chans != 3:
            arguments['in_chans'] = self.in_chans
        if self.num_classes != 1000:
            arguments['num_classes'] = self.num_classes
        if self.img_size not in (None, (224, 224)):
            arguments['img_size'] = self.img_size
        return size, arguments


def count_numbered(names: Collection[str], before: str, after: str, first: int, impl: str) -> int:
    """Count the parts of a network that have numbers in the names of tensors.

    Args:
        names: Names of tensors.
        before: The text before the number, at the start of a name.
        after: The text after the number.
        first: The number of the first part.
        impl: The implementation of the code that wrote the checkpoint, for errors.

    Raises:
        CheckpointError: If a number is missing between the first and the last number.
    """
    pattern = re.compile(rf'{re.escape(before)}([0-9]+){re.escape(after)}')
    numbers = {m[1] for name in names if (m := pattern.match(name))}
    missing = next((n for n in range(first, first + len(numbers)) if str(n) not in numbers), None)
    if missing is not None:
        raise CheckpointError(
            f'The {impl} checkpoint has {before}{shown(max(numbers, key=len), 20)}{after}, but lacks tensors: '
            f'{before}{missing}{after}*.'
        )
    return len(numbers)


def shape_of(tensors: Mapping[str, torch.Tensor], key: str, ndim: int, impl: str) -> torch.Size:
    """The shape of a tensor.

    Args:
        tensors: Tensors by name.
        key: Name of the tensor.
        ndim: Number of dimensions that the tensor must have.
        impl: The implementation of the code that wrote the checkpoint, for errors.

    Raises:
        CheckpointError: If the tensor is missing, is empty, or has another number of dimensions.
    """
    if key not in tensors:
        raise CheckpointError(f'The {impl} checkpoint lacks the tensor {key}.')
    shape = tensors[key].shape
    if len(shape) != ndim or tensors[key].numel() == 0:
        raise CheckpointError(
            f'The tensor {key} of the {impl} checkpoint has shape {tuple(shape)}, not {ndim} dimensions of at least 1.'
        )
    return shape
