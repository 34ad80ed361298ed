"""What the mappings of other people's checkpoints share: what they read off the tensors, and their checks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import CheckpointError
from ..tables.configs import PerBlock


@dataclass(frozen=True)
class Structure:
    """What the tensors of a checkpoint say about the network.

    Attributes:
        stem_width: Width of every stem convolution.
        embed_dim: Width of every stage; a tuple where blocks of a stage differ.
        depths: Blocks of every stage.
        block_types: `C` or `T` for every stage; one for every block where they differ.
        num_heads: Attention heads, in every block; None where they are counted from the width.
        dim_head: Width of a head.
        in_chans: Channels of the image.
        num_classes: Classes.
        img_size: (height, width) in pixels; None where there is no attention to read it from.
        expand_ratio: How many times wider MBConv and the feed-forward network are inside.
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

    def cfg_args(self) -> dict[str, Any]:
        """The fields of `CoAtNetCfg` that it says."""
        names = ('stem_width', 'embed_dim', 'depths', 'block_types', 'num_heads', 'dim_head')
        ratios = dict(conv_expand_ratio=self.expand_ratio, mlp_ratio=self.expand_ratio)
        return {**{name: getattr(self, name) for name in names}, **ratios}


def shape_of(state_dict: Mapping[str, torch.Tensor], key: str, ndim: int, whose: str) -> torch.Size:
    """The shape of a tensor.

    Args:
        state_dict: Tensors by name.
        key: Name of the tensor.
        ndim: Dimensions that it must have.
        whose: Whose checkpoint it is, for errors.

    Raises:
        CheckpointError: If it is missing, empty, or has other dimensions.
    """
    if key not in state_dict:
        raise CheckpointError(f'The {whose} checkpoint lacks the tensor {key}.')
    shape = state_dict[key].shape
    if len(shape) != ndim or state_dict[key].numel() == 0:
        raise CheckpointError(
            f'The tensor {key} of the {whose} checkpoint has shape {tuple(shape)}, not {ndim} dimensions of at least 1.'
        )
    return shape


def check_names(present: Iterable[str], expected: Iterable[str], whose: str) -> None:
    """Raise a `CheckpointError` that names the tensors of `expected` that are missing, or those beyond it."""
    present, expected = set(present), list(expected)
    surplus = sorted(present.difference(expected))
    if surplus:
        raise CheckpointError(f'The {whose} checkpoint has tensors that do not belong there: {_some(surplus)}.')
    missing = [name for name in expected if name not in present]
    if missing:
        raise CheckpointError(f'The {whose} checkpoint lacks tensors: {_some(missing)}.')


def _some(names: list[str]) -> str:
    more = f' and {len(names) - 4} more' if len(names) > 4 else ''
    return ', '.join(names[:4]) + more
