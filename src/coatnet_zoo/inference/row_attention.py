"""Attention row by row (see `network.attend_by_rows`) for models that may be compiled."""

import torch
import torch.nn.functional as F
from torch import nn

from ..network import attend_by_rows, split_heads


# A separate operator, because compilers would copy the views.
@torch.library.custom_op('coatnet_zoo::row_attention', mutates_args=())
def row_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """See `network.attend_by_rows`. The result is contiguous."""
    return attend_by_rows(q, k, v, table, height, width).contiguous()


@row_attention.register_fake
def _(q: torch.Tensor, *_: torch.Tensor | int) -> torch.Tensor:
    return q.new_empty(q.shape)


class TableOfSize(nn.Module):
    """Positions as a table of offsets instead of the bias of all pairs.

    Args:
        rel_pos: A module with the method `table`, see `network.RelPosBias.table`.
    """

    def __init__(self, rel_pos: nn.Module) -> None:
        super().__init__()
        self.rel_pos = rel_pos

    def forward(self, height: int, width: int) -> torch.Tensor:
        """The bias of all offsets, ((2 * height - 1) * (2 * width - 1), heads)."""
        return self.rel_pos.table(height, width)


class RowCore(nn.Module):
    """A core of attention that computes the queries of a feature map row by row, on CPUs.

    Args:
        num_heads: Attention heads.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """See `network.GlobalCore.grid`."""
        return height, width

    def forward(self, qkv: torch.Tensor, positions: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """See `network.GlobalCore.forward`; positions are a table of offsets, or the bias of all pairs."""
        q, k, v = split_heads(qkv, self.num_heads)
        positions = positions.to(q.dtype)
        if positions.ndim == 4:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=positions)
        else:
            x = row_attention(q, k, v, positions, height, width)
        return x.transpose(1, 2).flatten(2)
