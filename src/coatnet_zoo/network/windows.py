"""Attention within windows: cutting a feature map into windows that do not overlap, and joining the windows again."""

import torch
import torch.nn.functional as F
from torch import nn


def _windows(side: int, window: int) -> tuple[int, int]:
    """The number of windows along a side, and their length, which is at most the side."""
    # Compilers need minutes for the symbolic sizes that min() makes.
    if side <= window:
        return 1, side
    return (side + window - 1) // window, window


@torch.fx.wrap
def window_side(side: int, window: int) -> int:
    """Length of a window along a side of a feature map."""
    return _windows(side, window)[1]


@torch.fx.wrap
def to_windows(qkv: torch.Tensor, height: int, width: int, window: int, num_heads: int) -> torch.Tensor:
    """Cut a feature map into windows, and windows into heads. Zeros below and on the right complete the last windows.

    Args:
        qkv: (B, height * width, C).
        height: Rows of the feature map.
        width: Columns of the feature map.
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
    """The mask that excludes the zeros of `to_windows` from attention: 0 inside the feature map, else minus infinity.

    Args:
        height: Rows of the feature map.
        width: Columns of the feature map.
        window: Side of a window.
        like: A tensor with the device and dtype of the result.

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


class WindowCore(nn.Module):
    """Attention within windows that do not overlap. A feature map smaller than a window is one window.

    Args:
        num_heads: Attention heads.
        attn: The form, which defines what is summed: (q, k, v, bias, padding) -> (B, windows * heads, N, d).
        window: Side of a window in positions.
    """

    def __init__(self, num_heads: int, attn: nn.Module, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn = attn
        self.window = window

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The grid of positions that needs a bias, (height, width): a window."""
        return window_side(height, self.window), window_side(width, self.window)

    def forward(self, qkv: torch.Tensor, bias: torch.Tensor | None, height: int, width: int) -> torch.Tensor:
        """See `attention_core.GlobalCore.forward`; the bias is for the N positions of a window."""
        q, k, v = to_windows(qkv, height, width, self.window, self.num_heads).chunk(3, dim=-1)
        padding = padding_mask(height, width, self.window, q)
        return from_windows(self.attn(q, k, v, bias, padding), height, width, self.window, self.num_heads)
