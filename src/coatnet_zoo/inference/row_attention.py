"""Attention with a relative bias on large feature maps, for inference: the bias of all pairs is never written down.

All queries in one row of a feature map see the same offsets, moved by their column; and from row to row, the same
offsets again, moved by one row. So a tensor of a row's queries and all offsets holds the bias of every row, as windows
that overlap: views. It is 28 times smaller than the bias of all pairs at 56 x 56 positions, and fits the caches.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..network.attention import PreAttention
from ..network.rel_pos import ExpandedRelPos


def bias_by_rows(table: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The bias of all pairs of positions as a view of one row's.

    Args:
        table: ((2 * height - 1) * (2 * width - 1), heads), see `rel_pos.expand_rel_pos_table`.
        height: Rows of the feature map.
        width: Columns of it.

    Returns:
        (height, heads, width, height * width): queries by row and column, both from the last to the first, and keys.
        Rows share memory; it must not be written to.
    """
    heads = table.shape[1]
    grid = table.transpose(0, 1).reshape(heads, 2 * height - 1, 2 * width - 1).flip(1, 2)
    # (heads, query's column, key's row - query's row, key's column)
    row = grid.unfold(2, width, 1).transpose(1, 2).contiguous()
    return row.as_strided((height, heads, width, height * width), (width, row.stride(0), row.stride(1), 1))


# An operator of its own, because compilers would copy the views.
@torch.library.custom_op('coatnet_zoo::row_attention', mutates_args=())
def row_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """sum_j softmax_j(q_i.k_j / sqrt(d) + w_{i-j}) v_j, row by row.

    Args:
        q: Queries, (B, heads, height * width, d).
        k: Keys, likewise.
        v: Values, likewise.
        table: w, as `bias_by_rows` takes it, in the same precision.
        height: Rows of the feature map.
        width: Columns of it.

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


class RowAttention(PreAttention):
    """A `PreAttention` that takes the queries of a feature map row by row, on CPUs.

    Args:
        attn: Its layers are taken over. A bias that is expanded already is used as it is.
    """

    def __init__(self, attn: PreAttention) -> None:
        nn.Module.__init__(self)
        self.num_heads, self.dim_head, self.window, self.attn_drop = attn.num_heads, attn.dim_head, 0, attn.attn_drop
        self.qkv, self.rel_pos, self.proj, self.proj_drop = attn.qkv, attn.rel_pos, attn.proj, attn.proj_drop

    def mix(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        height: int,
        width: int,
        padding: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `Attention.mix`."""
        if isinstance(self.rel_pos, ExpandedRelPos) and self.rel_pos.size == (height, width):
            return super().mix(q, k, v, height, width)
        return row_attention(q, k, v, self.rel_pos.table(height, width).to(q.dtype), height, width)
