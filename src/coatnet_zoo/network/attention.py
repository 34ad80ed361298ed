"""Self-attention of Transformer blocks, CoAtNet paper section 2.1. docs/design-space.md has the formulas.

`Attention` has the projections and the relative positions. Its core defines which positions see each other: all of the
feature map (`GlobalCore`) or those of a window (`WindowCore`). The form inside the core defines what is summed over
these positions: `SoftmaxAttention`, `PostBiasAttention` or `LinearAttention`. Cores and forms have no parameters.
"""

import torch
import torch.nn.functional as F
from timm.layers import use_fused_attn
from torch import Tensor, nn

from ..registry import CoAtNetCfg
from .rel_pos import NoRelPos, RelPosBias, RelPosMlp, expand_rel_pos_table

# The positions of the third stage at 224 pixels, 14 x 14. On CPUs, larger maps are faster and need less memory row by
# row, unless several images share the bias of all pairs.
MAX_EXPANDED = 196


class Attention(nn.Module):
    """Multi-head self-attention over the positions of a feature map.

    Arguments are those of `TransformerBlock`; a learned position table is built for `feat_size`.

    Raises:
        ValueError: If `attn_drop` is not 0 and attention is linear, which has no weights to drop.
    """

    def __init__(
        self, cfg: CoAtNetCfg, dim: int, dim_out: int, feat_size: tuple[int, int], attn_drop: float = 0.0,
        proj_drop: float = 0.0, device=None, dtype=None,
    ) -> None:  # fmt: skip
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.num_heads = cfg.num_heads or (dim if cfg.attn_base == 'in' else dim_out) // cfg.dim_head
        self.dim_head = cfg.dim_head
        dim_attn = self.num_heads * self.dim_head
        # Rows of qkv are ordered (head, q|k|v, dim), as in timm's MaxxVit.
        self.qkv = nn.Linear(dim, dim_attn * 3, bias=cfg.qkv_bias, **dd)
        form = create_form(cfg, attn_drop)
        if cfg.attn_window is None:
            self.core: nn.Module = GlobalCore(self.num_heads, form)
        else:
            self.core = WindowCore(self.num_heads, form, cfg.attn_window)
        if cfg.rel_attn == 'none':
            self.rel_pos: nn.Module = NoRelPos()
        elif cfg.rel_pos_type == 'mlp':
            self.rel_pos = RelPosMlp(self.num_heads, cfg.rel_pos_dim, **dd)
        else:
            self.rel_pos = RelPosBias(self.core.grid(*feat_size), self.num_heads, **dd)
        self.proj = nn.Linear(dim_attn, dim_out, bias=cfg.proj_bias, **dd)
        self.proj_drop = nn.Dropout(proj_drop)

    def attend(self, qkv: Tensor, height: int, width: int) -> Tensor:
        """Compute everything between the projections. See `GlobalCore.forward`."""
        rows, cols = self.core.grid(height, width)
        return self.core(qkv, self.rel_pos(rows, cols), height, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim_out, H, W)."""
        batch, _, height, width = x.shape
        x = self.attend(self.qkv(x.permute(0, 2, 3, 1).flatten(1, 2)), height, width)
        x = self.proj_drop(self.proj(x))
        return x.reshape(batch, height, width, x.shape[2]).permute(0, 3, 1, 2)


# Forms: what is summed.


class SoftmaxAttention(nn.Module):
    """y_i = sum_j softmax_j(q_i.k_j / sqrt(d) + w_{i-j}) v_j, the form that the paper chooses.

    `fused_attention` computes it; without gradients on CPUs, it computes large maps row by row. In models created after
    `timm.layers.set_fused_attn(False)`, the weights are computed step by step, so that hooks can read them.

    Args:
        attn_drop: Dropout of the weights that the softmax gives.
    """

    def __init__(self, attn_drop: float = 0.0) -> None:
        super().__init__()
        self.fused_attn = bool(use_fused_attn())
        self.attn_drop = nn.Dropout(attn_drop)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, grid: tuple[int, int], padding: Tensor | None
    ) -> Tensor:
        """Sum the values for every position, (B, windows * heads, N, d).

        Args:
            q: Queries, (B, windows * heads, N, d), as the keys and the values.
            k: Keys.
            v: Values; zeros outside the feature map.
            table: w in a form that `expand_rel_pos_table` takes, or None.
            grid: (height, width) of the feature map, or of a window, with N positions.
            padding: (windows, 1, 1, N), minus infinity outside the feature map; None without windows.
        """
        if self.fused_attn:
            return fused_attention(q, k, v, table, grid, padding, self.attn_drop.p if self.training else 0.0)
        weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        mask = attention_mask(q, table, grid, padding)
        if mask is not None:
            weights = weights + mask
        return self.attn_drop(weights.softmax(dim=-1)) @ v


class PostBiasAttention(nn.Module):
    """y_i = sum_j (softmax_j(q_i.k_j / sqrt(d)) + w_{i-j}) v_j, the other form of the paper, as two separate sums."""

    def __init__(self, attn_drop: float = 0.0) -> None:
        super().__init__()
        self.attn = SoftmaxAttention(attn_drop)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, grid: tuple[int, int], padding: Tensor | None
    ) -> Tensor:
        """See `SoftmaxAttention.forward`; the table is not None."""
        assert table is not None
        return self.attn(q, k, v, None, grid, padding) + weighted_sum(table, grid, v)


class LinearAttention(nn.Module):
    """Attention without positions and without a softmax, at a cost that grows with the number of positions."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, grid: tuple[int, int], padding: Tensor | None
    ) -> Tensor:
        """See `SoftmaxAttention.forward`; the table and the padding are None."""
        return linear_attention(q, k, v)


def create_form(cfg: CoAtNetCfg, attn_drop: float) -> nn.Module:
    """The form of attention of a configuration; for the error see `Attention`."""
    if cfg.attn_type == 'linear' and attn_drop:
        raise ValueError(
            f"attn_drop_rate={attn_drop} does not work with attn_type='linear', which has no attention weights to "
            'drop; use proj_drop_rate or leave it out.'
        )
    if cfg.attn_type == 'linear':
        return LinearAttention()
    return PostBiasAttention(attn_drop) if cfg.rel_attn == 'post' else SoftmaxAttention(attn_drop)


@torch.fx.wrap
def attention_mask(q: Tensor, table: Tensor | None, grid: tuple[int, int], padding: Tensor | None) -> Tensor | None:
    """Return what is added to the logits, (1, windows * heads, N, N) or None. See `SoftmaxAttention.forward`."""
    mask = None if table is None else expand_rel_pos_table(table.to(q.dtype), grid[0], grid[1])
    if padding is not None:
        heads = q.shape[1] // padding.shape[0]
        by_window = padding.expand(-1, heads, -1, -1) if mask is None else mask + padding
        mask = by_window.flatten(0, 1).unsqueeze(0)
    return mask


@torch.fx.wrap
def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, grid: tuple[int, int], padding: Tensor | None, dropout: float
) -> Tensor:
    """`scaled_dot_product_attention` with relative positions. See `SoftmaxAttention.forward`.

    On CPUs, without gradients and dropout, maps of more than `MAX_EXPANDED` positions for each image are computed row
    by row.
    """
    # TorchScript compiles every condition except this one.
    if not torch.jit.is_scripting():  # noqa: SIM102
        if (
            not (torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_grad_enabled())
            and q.device.type == 'cpu'
            and grid[0] * grid[1] > MAX_EXPANDED * q.shape[0] > 0  # there may be no image
            and dropout == 0
            and padding is None
            and table is not None
            and table.ndim == 2
        ):
            return attend_by_rows(q, k, v, table.to(q.dtype), grid[0], grid[1])
    mask = attention_mask(q, table, grid, padding)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


def attend_by_rows(q: Tensor, k: Tensor, v: Tensor, table: Tensor, height: int, width: int) -> Tensor:
    """`SoftmaxAttention` row by row: the bias of all pairs is never written to memory.

    All queries in one row of the map share one set of offsets, shifted by the column of the query; the next row shifts
    it by one row. So one tensor, for the queries of one row and all offsets, holds the bias of every row as overlapping
    views. At 56 x 56 positions it is 28 times smaller than the bias of all pairs, and fits the caches.

    See `SoftmaxAttention.forward`; the table is in the precision of the queries.
    """
    grid = table.flip(0).transpose(0, 1).reshape(-1, 2 * height - 1, 2 * width - 1)
    # Queries count from the last to the first: (heads, query's column, key's row - query's row, key's column), then
    # (heads, query's row, query's column, keys).
    row = grid.unfold(2, width, 1).transpose(1, 2).contiguous()
    bias = row.unfold(2, height, 1).permute(0, 2, 1, 4, 3).flatten(3)
    # Heads become the batch and rows become the heads, so that the keys of a head stay in the caches for all rows.
    q, k, v = q.contiguous().flip(2).unflatten(2, (height, width)), k.contiguous(), v.contiguous()
    k, v = (t.unsqueeze(2).expand(-1, -1, height, -1, -1) for t in (k, v))
    images = [F.scaled_dot_product_attention(*qkv, attn_mask=bias) for qkv in zip(q, k, v, strict=True)]
    return torch.stack([y.permute(1, 2, 0, 3) for y in images]).flatten(1, 2).flip(1).transpose(1, 2)


@torch.fx.wrap
def weighted_sum(table: Tensor, grid: tuple[int, int], v: Tensor) -> Tensor:
    """sum_j w_{i-j} v_j, with the same weights for every image and every window. See `SoftmaxAttention.forward`."""
    batch, groups, positions, dim = v.shape
    heads = table.shape[1]
    # A broadcast matmul would copy the weights for every image; images and windows become columns instead.
    copies = batch * (groups // heads)
    columns = v.reshape(copies, heads, positions, dim).permute(1, 2, 0, 3).flatten(2)
    weights = expand_rel_pos_table(table.to(v.dtype), grid[0], grid[1]).squeeze(0)
    sums = torch.bmm(weights, columns)
    return sums.reshape(heads, positions, copies, dim).permute(2, 0, 1, 3).reshape(batch, groups, positions, dim)


@torch.fx.wrap
def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """y_i = sum_j f(q_i).f(k_j) v_j / sum_j f(q_i).f(k_j) with f = elu + 1 (arXiv 2006.16236), at linear cost.

    All are (B, heads, N, d); the products have the precision of the values.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    q = F.elu(q.to(dtype)) + 1
    k = F.elu(k.to(dtype)) + 1
    # Sums over thousands of positions overflow float16. So the keys of each feature are divided by their sum, and the
    # query is multiplied by that sum: both products below are then weighted averages of values.
    total = k.sum(dim=-2, keepdim=True)
    k = k / total.clamp(min=1e-30)
    q = q * total
    q = q / q.sum(dim=-1, keepdim=True).clamp(min=1e-30)
    return q.to(v.dtype) @ (k.to(v.dtype).transpose(-2, -1) @ v)


# Cores: which positions see each other.


class GlobalCore(nn.Module):
    """Attention over the whole feature map, with a number of heads and a form such as `SoftmaxAttention`."""

    def __init__(self, num_heads: int, attn: nn.Module) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn = attn

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The grid of positions that needs a table, (height, width): the whole feature map."""
        return height, width

    def forward(self, qkv: Tensor, table: Tensor | None, height: int, width: int) -> Tensor:
        """Attend within a feature map: (B, N, heads * 3 * d), ordered (head, q|k|v, d), -> (B, N, heads * d).

        N is height * width. The table is that of `grid`, see `SoftmaxAttention.forward`.
        """
        q, k, v = split_heads(qkv, self.num_heads)
        return merge_heads(self.attn(q, k, v, table, (height, width), None))


class WindowCore(nn.Module):
    """Attention within square windows of `window` positions a side. A smaller feature map is one window."""

    def __init__(self, num_heads: int, attn: nn.Module, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn = attn
        self.window = window

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The grid of positions that needs a table, (height, width): a window."""
        return count_windows(height, self.window)[1], count_windows(width, self.window)[1]

    def forward(self, qkv: Tensor, table: Tensor | None, height: int, width: int) -> Tensor:
        """See `GlobalCore.forward`."""
        q, k, v = to_windows(qkv, height, width, self.window, self.num_heads).chunk(3, dim=-1)
        padding = padding_mask(height, width, self.window, q)
        x = self.attn(q, k, v, table, self.grid(height, width), padding)
        return from_windows(x, height, width, self.window, self.num_heads)


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, heads * 3 * d), ordered (head, q|k|v, d), -> queries, keys and values, each (B, heads, N, d)."""
    batch, positions, dim = qkv.shape
    qkv = qkv.reshape(batch, positions, num_heads, dim // num_heads).transpose(1, 2)
    q, k, v = qkv.chunk(3, dim=-1)
    return q, k, v


@torch.fx.wrap
def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, N, d) -> (B, N, heads * d)."""
    x = x.transpose(1, 2)
    # TorchScript compiles every condition except this one.
    if not torch.jit.is_scripting():  # noqa: SIM102
        # ONNX decomposes attention whose bias needs gradients. The output then has other strides than the graph was
        # made with.
        if torch.compiler.is_exporting():
            x = x.clone(memory_format=torch.contiguous_format)
    return x.flatten(2)


@torch.fx.wrap
def count_windows(side: int, window: int) -> tuple[int, int]:
    """The number of windows along a side, and their length, which is at most the side."""
    # Compilers need minutes for the symbolic sizes that min() makes.
    if side <= window:
        return 1, side
    return (side + window - 1) // window, window


@torch.fx.wrap
def to_windows(qkv: Tensor, height: int, width: int, window: int, num_heads: int) -> Tensor:
    """Cut a feature map into windows, and windows into heads. Zeros below and on the right complete the last windows.

    (B, height * width, C) -> (B, windows * heads, positions of a window, C / heads), windows row by row.
    """
    rows, h = count_windows(height, window)
    cols, w = count_windows(width, window)
    batch, _, dim = qkv.shape
    qkv = F.pad(qkv.reshape(batch, height, width, dim), (0, 0, 0, cols * w - width, 0, rows * h - height))
    qkv = qkv.unflatten(3, (num_heads, dim // num_heads)).unflatten(2, (cols, w)).unflatten(1, (rows, h))
    qkv = qkv.permute(0, 1, 3, 5, 2, 4, 6)
    return qkv.reshape(batch, rows * cols * num_heads, h * w, dim // num_heads)


@torch.fx.wrap
def from_windows(x: Tensor, height: int, width: int, window: int, num_heads: int) -> Tensor:
    """The inverse of `to_windows`: (B, windows * heads, positions of a window, d) -> (B, height * width, heads * d)."""
    rows, h = count_windows(height, window)
    cols, w = count_windows(width, window)
    batch, dim = x.shape[0], x.shape[3]
    x = x.reshape(batch, rows, cols, num_heads, h, w, dim).permute(0, 1, 4, 2, 5, 3, 6)
    x = x.reshape(batch, rows * h, cols * w, num_heads * dim)[:, :height, :width]
    return x.reshape(batch, height * width, num_heads * dim)


@torch.fx.wrap
def padding_mask(height: int, width: int, window: int, like: Tensor) -> Tensor:
    """Exclude the zeros of `to_windows` from attention: 0 inside the feature map, else minus infinity.

    The mask is (windows, 1, 1, positions of a window), on the device and in the precision of `like`.
    """
    rows, h = count_windows(height, window)
    cols, w = count_windows(width, window)
    outside_y = torch.arange(rows * h, device=like.device) >= height
    outside_x = torch.arange(cols * w, device=like.device) >= width
    outside = outside_y.reshape(rows, 1, h, 1) | outside_x.reshape(1, cols, 1, w)
    outside = outside.reshape(rows * cols, 1, 1, h * w)
    return torch.zeros(outside.shape, device=like.device, dtype=like.dtype).masked_fill(outside, -float('inf'))
