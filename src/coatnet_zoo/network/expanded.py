"""Positions of one feature map size, computed once instead of at every call."""

import torch
from torch import nn

from .rel_pos import expand_rel_pos_table


class ExpandedRelPos(nn.Module):
    """The bias of all pairs of positions of one feature map size, for inference.

    Args:
        rel_pos: Module that gives the bias of all pairs of positions: (height, width) -> (1, heads, N, N).
        height: Rows of the feature map.
        width: Columns of the feature map.
        otherwise: Module that gives the positions of every other size, in a form that the core of the attention takes.
    """

    def __init__(self, rel_pos: nn.Module, height: int, width: int, otherwise: nn.Module) -> None:
        super().__init__()
        self.otherwise = otherwise
        self.size = (height, width)
        with torch.no_grad():
            bias = rel_pos(height, width)[0]
        # channels_last would reorder a tensor of four dimensions, and attention would copy that tensor in every call.
        self.register_buffer('bias', bias, persistent=False)

    def forward(self, height: int, width: int) -> torch.Tensor:
        """The bias of all pairs of positions, (1, heads, N, N) with N = height * width; or what `otherwise` gives."""
        if (height, width) == self.size:
            return self.bias.unsqueeze(0)
        return self.otherwise(height, width)


class TabledRelPos(nn.Module):
    """The bias of all offsets of one feature map size, for inference. The bias of all pairs takes 50 times more memory.

    Args:
        rel_pos: Module that computes the bias of all offsets, see `RelPosBias.table`.
        height: Rows of the feature map.
        width: Columns of the feature map.
    """

    def __init__(self, rel_pos: nn.Module, height: int, width: int) -> None:
        super().__init__()
        self.rel_pos = rel_pos
        self.size = (height, width)
        with torch.no_grad():
            self.register_buffer('offsets', rel_pos.table(height, width), persistent=False)

    def table(self, height: int, width: int) -> torch.Tensor:
        """The bias of all offsets, ((2 * height - 1) * (2 * width - 1), heads)."""
        return self.offsets if (height, width) == self.size else self.rel_pos.table(height, width)

    def forward(self, height: int, width: int) -> torch.Tensor:
        """The bias of all pairs of positions, (1, heads, N, N) with N = height * width."""
        return expand_rel_pos_table(self.table(height, width), height, width)
