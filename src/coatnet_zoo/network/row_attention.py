"""Attention with a relative bias on large feature maps: the bias of all pairs is never written to memory.

All queries in one row of a feature map see the same offsets, moved by the column of the query. The queries in the next
row see the same offsets again, moved by one row. So one tensor, of the queries of a row and of all offsets, has the
bias of every row, as views that overlap. At 56 x 56 positions this tensor is 28 times smaller than the bias of all
pairs, and fits the caches.
"""

import torch
import torch.nn.functional as F


def bias_by_rows(table: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The bias of all pairs of positions as a view of the bias of one row.

    Args:
        table: ((2 * height - 1) * (2 * width - 1), heads), see `rel_pos.expand_rel_pos_table`.
        height: Rows of the feature map.
        width: Columns of the feature map.

    Returns:
        (height, heads, width, height * width): queries by row, from the last to the first, queries by column, and keys.
        Rows share memory, so the caller must not write to the result.
    """
    heads = table.shape[1]
    grid = table.transpose(0, 1).reshape(heads, 2 * height - 1, 2 * width - 1).flip(1, 2)
    # (heads, query's column, key's row - query's row, key's column)
    row = grid.unfold(2, width, 1).flip(2).transpose(1, 2).contiguous()
    return row.as_strided((height, heads, width, height * width), (width, row.stride(0), row.stride(1), 1))


def expand_by_rows(table: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """`rel_pos.expand_rel_pos_table`, in fewer passes over memory and without gradients."""
    bias = bias_by_rows(table, height, width).transpose(0, 1).flip(1)
    return bias.reshape(1, table.shape[1], height * width, height * width)


def attend_by_rows(
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
    # Heads take the place of images and rows that of heads, so that the keys of a head stay in the caches for all rows.
    bias = bias_by_rows(table, height, width).transpose(0, 1)
    q = q.unflatten(2, (height, width)).flip(2)
    k, v = (t.unsqueeze(2).expand(-1, -1, height, -1, -1) for t in (k, v))
    images = [F.scaled_dot_product_attention(*qkv, attn_mask=bias) for qkv in zip(q, k, v, strict=True)]
    return torch.stack(images).flip(2).flatten(2, 3)
