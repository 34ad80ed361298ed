"""Attention with a relative bias on large feature maps: the bias of all pairs is never written to memory.

All queries in one row of a feature map see the same offsets, moved by the column of the query. The queries in the next
row see the same offsets again, moved by one row. So one tensor, of the queries of a row and of all offsets, has the
bias of every row, as views that overlap. At 56 x 56 positions this tensor is 28 times smaller than the bias of all
pairs, and fits the caches.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..network import split_heads


def bias_by_rows(table: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The bias of all pairs of positions as a view of the bias of one row.

    Args:
        table: ((2 * height - 1) * (2 * width - 1), heads), see `network.rel_pos.expand_rel_pos_table`.
        height: Rows of the feature map.
        width: Columns of the feature map.

    Returns:
        (height, heads, width, height * width): queries by row and column, both from the last to the first, and keys.
        Rows share memory, so the caller must not write to the result.
    """
    heads = table.shape[1]
    grid = table.transpose(0, 1).reshape(heads, 2 * height - 1, 2 * width - 1).flip(1, 2)
    # (heads, query's column, key's row - query's row, key's column)
    row = grid.unfold(2, width, 1).transpose(1, 2).contiguous()
    return row.as_strided((height, heads, width, height * width), (width, row.stride(0), row.stride(1), 1))


# A separate operator, because compilers would copy the views.
@torch.library.custom_op('coatnet_zoo::row_attention', mutates_args=())
def row_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """sum_j softmax_j(q_i.k_j / sqrt(d) + w_{i-j}) v_j, row by row.

    Args:
        q: Queries, (B, heads, height * width, d).
        k: Keys, (B, heads, height * width, d).
        v: Values, (B, heads, height * width, d).
        table: w, in the form that `bias_by_rows` takes, in the precision of the queries.
        height: Rows of the feature map.
        width: Columns of the feature map.

    Returns:
        (B, heads, height * width, d).
    """
    bias = bias_by_rows(table, height, width)
    # Rows take the place of images: (B, heads, N, d) -> (B, H, heads, W, d).
    q = q.flip(2).unflatten(2, (height, width)).transpose(1, 2)
    k, v = (t.unsqueeze(1).expand(-1, height, -1, -1, -1) for t in (k, v))
    rows = [F.scaled_dot_product_attention(*qkv, attn_mask=bias) for qkv in zip(q, k, v, strict=True)]
    return torch.stack(rows).transpose(1, 2).flatten(2, 3).flip(2)


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
