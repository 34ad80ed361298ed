"""The forms of self-attention that Transformer blocks can have: a relative bias inside the softmax, after it or none,
over the whole feature map or within windows; and attention of linear cost.

`attention_layer(cfg)` chooses one when a block is built. They have the same projections and differ in `attend`, which
is everything between them. docs/design-space.md has the formulas.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..tables.configs import CoAtNetCfg
from .rel_pos import RelPosBias, RelPosMlp


def split_heads(qkv: torch.Tensor, num_heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B, N, heads * 3 * d), ordered (head, q|k|v, d), -> queries, keys and values, each (B, heads, N, d)."""
    batch, positions, dim = qkv.shape
    qkv = qkv.reshape(batch, positions, num_heads, dim // num_heads).transpose(1, 2)
    q, k, v = qkv.chunk(3, dim=-1)
    return q, k, v


def weighted_sum(weights: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """sum_j weights_ij v_j with weights that are the same for every image and every window.

    Args:
        weights: (1, heads, N, N).
        v: (B, windows * heads, N, d).

    Returns:
        (B, windows * heads, N, d).
    """
    batch, groups, positions, dim = v.shape
    heads = weights.shape[1]
    # A broadcast matmul would copy the weights for every image; images and windows become columns instead.
    columns = v.reshape(-1, heads, positions, dim).permute(1, 2, 0, 3).flatten(2)
    sums = torch.bmm(weights.squeeze(0).to(v.dtype), columns)
    return sums.reshape(heads, positions, -1, dim).permute(2, 0, 1, 3).reshape(batch, groups, positions, dim)


@torch.fx.wrap
def linear_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """y_i = sum_j f(q_i).f(k_j) v_j / sum_j f(q_i).f(k_j) with f = elu + 1 (arXiv 2006.16236), at linear cost.

    Args:
        q: Queries, (B, heads, N, d).
        k: Keys, likewise.
        v: Values, likewise.

    Returns:
        (B, heads, N, d), in the values' precision.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    q = F.elu(q.to(dtype)) + 1
    k = F.elu(k.to(dtype)) + 1
    # Sums over thousands of positions overflow float16. So each feature's keys are divided by their sum, which the
    # query is multiplied by: both products below are then weighted averages of values.
    total = k.sum(dim=-2, keepdim=True)
    k = k / total.clamp(min=1e-30)
    q = q * total
    q = q / q.sum(dim=-1, keepdim=True).clamp(min=1e-30)
    return q.to(v.dtype) @ (k.to(v.dtype).transpose(-2, -1) @ v)


def _windows(side: int, window: int) -> tuple[int, int]:
    """How many windows there are along a feature map's side, and how long they are: not longer than that."""
    # Not by min(), whose symbolic sizes take compilers minutes.
    if side <= window:
        return 1, side
    return (side + window - 1) // window, window


@torch.fx.wrap
def window_side(side: int, window: int) -> int:
    """Side of the windows on a feature map's side."""
    return _windows(side, window)[1]


@torch.fx.wrap
def to_windows(qkv: torch.Tensor, height: int, width: int, window: int, num_heads: int) -> torch.Tensor:
    """Cut a feature map into windows, and these into heads; zeros below and on the right complete the last windows.

    Args:
        qkv: (B, height * width, C).
        height: Rows of the feature map.
        width: Columns of it.
        window: Side of a window.
        num_heads: Attention heads.

    Returns:
        (B, windows * heads, positions of a window, C / heads), windows row by row.
    """
    rows, h = _windows(height, window)
    cols, w = _windows(width, window)
    batch, _, dim = qkv.shape
    qkv = F.pad(qkv.reshape(batch, height, width, dim), (0, 0, 0, cols * w - width, 0, rows * h - height))
    qkv = qkv.unflatten(3, (num_heads, dim // num_heads)).unflatten(2, (cols, w)).unflatten(1, (rows, h))
    qkv = qkv.permute(0, 1, 3, 5, 2, 4, 6)
    return qkv.reshape(batch, rows * cols * num_heads, h * w, dim // num_heads)


@torch.fx.wrap
def from_windows(x: torch.Tensor, height: int, width: int, window: int, num_heads: int) -> torch.Tensor:
    """The inverse of `to_windows`: (B, windows * heads, positions of a window, d) -> (B, height * width, heads * d)."""
    rows, h = _windows(height, window)
    cols, w = _windows(width, window)
    batch, dim = x.shape[0], x.shape[3]
    x = x.reshape(batch, rows, cols, num_heads, h, w, dim).permute(0, 1, 4, 2, 5, 3, 6)
    x = x.reshape(batch, rows * h, cols * w, num_heads * dim)[:, :height, :width]
    return x.reshape(batch, height * width, num_heads * dim)


@torch.fx.wrap
def padding_mask(height: int, width: int, window: int, like: torch.Tensor) -> torch.Tensor:
    """What keeps attention from the zeros of `to_windows`: 0 for positions of the feature map, else minus infinity.

    Args:
        height: Rows of the feature map.
        width: Columns of it.
        window: Side of a window.
        like: A tensor whose device and dtype to take.

    Returns:
        (windows, 1, 1, positions of a window).
    """
    rows, h = _windows(height, window)
    cols, w = _windows(width, window)
    outside_y = torch.arange(rows * h, device=like.device) >= height
    outside_x = torch.arange(cols * w, device=like.device) >= width
    outside = outside_y.reshape(rows, 1, h, 1) | outside_x.reshape(1, cols, 1, w)
    outside = outside.reshape(rows * cols, 1, 1, h * w)
    return torch.zeros(outside.shape, device=like.device, dtype=like.dtype).masked_fill(outside, -float('inf'))


class Attention(nn.Module):
    """Self-attention without positions (`rel_attn='none'`), and what all forms share.

    y_i = sum_j softmax_j(q_i.k_j) v_j.

    Args:
        cfg: Flavour of the block.
        dim: Input channels.
        dim_out: Output channels.
        feat_size: (height, width) of the feature map that learned position tables are for.
        attn_drop: Dropout of the weights that the softmax gives.
        proj_drop: Dropout of the output.
    """

    def __init__(
        self,
        cfg: CoAtNetCfg,
        dim: int,
        dim_out: int,
        feat_size: tuple[int, int],
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.num_heads = cfg.num_heads or (dim if cfg.attn_base == 'in' else dim_out) // cfg.dim_head
        self.dim_head = cfg.dim_head
        self.window = cfg.attn_window or 0
        self.attn_drop = attn_drop
        dim_attn = self.num_heads * self.dim_head
        # Rows of qkv are ordered (head, q|k|v, dim), as in timm's MaxxVit.
        self.qkv = nn.Linear(dim, dim_attn * 3, bias=cfg.qkv_bias, **dd)
        self._add_positions(cfg, feat_size, **dd)
        self.proj = nn.Linear(dim_attn, dim_out, bias=cfg.proj_bias, **dd)
        self.proj_drop = nn.Dropout(proj_drop)

    def _add_positions(self, cfg: CoAtNetCfg, feat_size: tuple[int, int], device=None, dtype=None) -> None:
        """Create what the form knows of positions: nothing."""

    def table_size(self, feat_size: tuple[int, int]) -> tuple[int, int]:
        """The grid that position tables are for on a feature map, (height, width): all of it, or a window."""
        return (min(feat_size[0], self.window), min(feat_size[1], self.window)) if self.window else feat_size

    def set_feat_size(self, feat_size: tuple[int, int]) -> None:
        """Make position tables those of another feature map size.

        Args:
            feat_size: (height, width).
        """
        for module in self.modules():
            if isinstance(module, RelPosBias):
                module.set_window_size(self.table_size(feat_size))

    def softmax_attention(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """sum_j softmax_j(q_i.k_j / sqrt(d) + bias_ij) v_j, all (B, windows * heads, N, d)."""
        dropout = self.attn_drop if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)

    def plain_attention(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, padding: torch.Tensor | None
    ) -> torch.Tensor:
        """The same without a bias; `padding` is that of `mix`."""
        if padding is not None:
            padding = padding.expand(-1, self.num_heads, -1, -1).flatten(0, 1).unsqueeze(0)
        return self.softmax_attention(q, k, v, padding)

    def mix(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        height: int,
        width: int,
        padding: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What a form of attention is: the sum of values for every position.

        Args:
            q: Queries, (B, windows * heads, N, d).
            k: Keys, likewise.
            v: Values, likewise; zeros outside of the feature map.
            height: Rows of the feature map or window that has the N positions.
            width: Columns of it.
            padding: (windows, 1, 1, N), minus infinity outside of the feature map.

        Returns:
            (B, windows * heads, N, d).
        """
        return self.plain_attention(q, k, v, padding)

    def attend(self, qkv: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Everything between the projections.

        Args:
            qkv: (B, N, heads * 3 * d), ordered (head, q|k|v, d), of N = height * width positions.
            height: Rows of the feature map.
            width: Columns of it.

        Returns:
            (B, N, heads * d).
        """
        q, k, v = split_heads(qkv, self.num_heads)
        return self.mix(q, k, v, height, width).transpose(1, 2).flatten(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, dim, H, W) -> (B, dim_out, H, W)."""
        batch, _, height, width = x.shape
        x = self.attend(self.qkv(x.flatten(2).transpose(1, 2)), height, width)
        x = self.proj_drop(self.proj(x))
        return x.transpose(1, 2).reshape(batch, -1, height, width)


class PreAttention(Attention):
    """The relative bias inside the softmax, the form that CoAtNet paper section 2.1 chooses.

    y_i = sum_j softmax_j(q_i.k_j + w_{i-j}) v_j; arguments are those of `Attention`.
    """

    def _add_positions(self, cfg: CoAtNetCfg, feat_size: tuple[int, int], device=None, dtype=None) -> None:
        if cfg.rel_pos_type == 'mlp':
            self.rel_pos = RelPosMlp(self.num_heads, cfg.rel_pos_dim, device=device, dtype=dtype)
        else:
            self.rel_pos = RelPosBias(self.table_size(feat_size), self.num_heads, device=device, dtype=dtype)

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
        bias = self.rel_pos(height, width).to(q.dtype)
        if padding is not None:
            bias = (bias + padding).flatten(0, 1).unsqueeze(0)
        return self.softmax_attention(q, k, v, bias)


class PostAttention(PreAttention):
    """The relative bias added to the weights that the softmax gives, the other form of CoAtNet paper section 2.1.

    y_i = sum_j (softmax_j(q_i.k_j) + w_{i-j}) v_j; arguments are those of `Attention`. It is computed as two sums, so
    that the softmax's weights need not be kept; the bias is looked up once, however many images there are.
    """

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
        by_position = weighted_sum(self.rel_pos(height, width), v)
        return self.plain_attention(q, k, v, padding) + by_position


class _Windowed(Attention):
    """Attention within windows of `cfg.attn_window` x `cfg.attn_window` positions that do not overlap.

    A feature map smaller than a window is one window. Before one of the forms above among the bases of a class.
    """

    def attend(self, qkv: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """See `Attention.attend`."""
        q, k, v = to_windows(qkv, height, width, self.window, self.num_heads).chunk(3, dim=-1)
        padding = padding_mask(height, width, self.window, q)
        x = self.mix(q, k, v, window_side(height, self.window), window_side(width, self.window), padding)
        return from_windows(x, height, width, self.window, self.num_heads)


class WindowAttention(_Windowed):
    """`Attention` within windows."""


class WindowPreAttention(_Windowed, PreAttention):
    """`PreAttention` within windows."""


class WindowPostAttention(_Windowed, PostAttention):
    """`PostAttention` within windows."""


class LinearAttention(Attention):
    """Attention without positions and without a softmax, whose cost grows with the number of positions, not its square.

    Arguments are those of `Attention`; see `linear_attention`.

    Raises:
        ValueError: If `attn_drop` is not 0, as there are no weights to drop.
    """

    def _add_positions(self, cfg: CoAtNetCfg, feat_size: tuple[int, int], device=None, dtype=None) -> None:
        if self.attn_drop:
            raise ValueError(
                f"attn_drop_rate={self.attn_drop} cannot be had with attn_type='linear', which has no attention "
                'weights to drop; use proj_drop_rate or leave it out.'
            )

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
        return linear_attention(q, k, v)


_FORMS = {
    'none': (Attention, WindowAttention),
    'pre': (PreAttention, WindowPreAttention),
    'post': (PostAttention, WindowPostAttention),
}


def attention_layer(cfg: CoAtNetCfg) -> type[Attention]:
    """The class of attention that a configuration asks for."""
    if cfg.attn_type == 'linear':
        return LinearAttention
    return _FORMS[cfg.rel_attn][cfg.attn_window is not None]
