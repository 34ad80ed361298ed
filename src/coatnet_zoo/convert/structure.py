"""The structure of a network as the tensors of a third-party checkpoint show it, in the same form for every code."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import CheckpointError
from ..registry import SIZES, CoAtNetCfg, PerBlock, list_impls, resolve_cfg


@dataclass(frozen=True)
class Structure:
    """The structure of a network, read from the tensors of a checkpoint.

    A stage whose blocks differ has a tuple with one width for every block, and a text with one letter for every block.
    """

    stem_width: tuple[int, ...]  # of every convolution
    embed_dim: tuple[int | tuple[int, ...], ...]  # of every stage
    depths: tuple[int, ...]
    block_types: str | PerBlock  # C or T
    num_heads: int | None  # None if the width determines the heads
    dim_head: int
    in_chans: int
    num_classes: int  # 0 if there is no classifier
    img_size: tuple[int, int] | None  # height and width in pixels; None if no attention shows them
    expand_ratio: float = 4.0  # how many times wider MBConv and the feed-forward network are inside
    head_bias: bool | None = None  # None: as in the implementation

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
        """The closest registered size of an implementation, and the arguments that make it exactly this structure."""
        differences = {s: self.differences(resolve_cfg(s, impl)) for s in SIZES if impl in list_impls(s)}
        size = min(differences, key=lambda s: len(differences[s]))
        usual = dict(in_chans=3, num_classes=1000, img_size=(224, 224))
        ends = {name: getattr(self, name) for name in usual}
        return size, differences[size] | {k: v for k, v in ends.items() if v not in (None, usual[k])}


def count_numbered(names: Collection[str], before: str, after: str) -> int:
    """Count the parts of a network that have numbers in the names of tensors, between two texts."""
    pattern = re.compile(rf'{re.escape(before)}([0-9]+){re.escape(after)}')
    return len({m[1] for name in names if (m := pattern.match(name))})


def shape_of(tensors: Mapping[str, torch.Tensor], key: str, ndim: int, impl: str) -> torch.Size:
    """The shape of a tensor of `ndim` dimensions, none of them empty; a `CheckpointError` for any other tensor."""
    if key not in tensors:
        raise CheckpointError(f'The {impl} checkpoint lacks the tensor {key}.')
    shape = tensors[key].shape
    if len(shape) != ndim or tensors[key].numel() == 0:
        raise CheckpointError(
            f'The tensor {key} of the {impl} checkpoint has shape {tuple(shape)}, not {ndim} dimensions of at least 1.'
        )
    return shape
