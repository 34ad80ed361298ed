"""The relative position bias w_{i-j} of CoAtNet paper section 2.1, for any feature map size."""

import torch
from timm.layers import Mlp, trunc_normal_
from torch import nn

from ..tables import num_offsets
from .rel_pos_table import expand_rel_pos_table, log_offsets, resize_rel_pos_table


class RelPosBias(nn.Module):
    """A learned scalar per head and relative offset.

    Args:
        window_size: (height, width) of the feature map that the table is for.
        num_heads: Attention heads.
    """

    def __init__(self, window_size: tuple[int, int], num_heads: int, device=None, dtype=None) -> None:
        super().__init__()
        self.window_size = window_size
        self.relative_position_bias_table = nn.Parameter(
            torch.empty(num_offsets(window_size), num_heads, device=device, dtype=dtype)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the table as ViTs initialise positions: truncated normal of standard deviation 0.02."""
        trunc_normal_(self.relative_position_bias_table, std=0.02)

    def table(self, height: int, width: int) -> torch.Tensor:
        """The bias of all offsets, ((2 * height - 1) * (2 * width - 1), heads)."""
        return resize_rel_pos_table(self.relative_position_bias_table, self.window_size, height, width)

    def forward(self, height: int, width: int) -> torch.Tensor:
        """The bias of all pairs of positions, (1, heads, N, N) with N = height * width."""
        return expand_rel_pos_table(self.table(height, width), height, width)

    def set_window_size(self, window_size: tuple[int, int]) -> None:
        """Make the table one for another feature map size.

        Args:
            window_size: (height, width).
        """
        table = self.relative_position_bias_table
        with torch.no_grad():
            resized = resize_rel_pos_table(table, self.window_size, window_size[0], window_size[1]).to(table.dtype)
        if resized is not table:
            self.relative_position_bias_table = nn.Parameter(resized, requires_grad=table.requires_grad)
        self.window_size = window_size


class RelPosMlp(nn.Module):
    """The bias as an MLP of log-spaced offsets, for any size: timm's `RelPosMlp` in its 'cr' mode (after Swin-V2).

    Args:
        num_heads: Attention heads.
        hidden_dim: Hidden width of the MLP.
    """

    def __init__(self, num_heads: int, hidden_dim: int, device=None, dtype=None) -> None:
        super().__init__()
        # 0.125 is timm's dropout on the hidden layer while training.
        self.mlp = Mlp(2, hidden_dim, num_heads, act_layer=nn.ReLU, drop=(0.125, 0.0), device=device, dtype=dtype)

    def table(self, height: int, width: int) -> torch.Tensor:
        """The bias of all offsets, ((2 * height - 1) * (2 * width - 1), heads)."""
        return self.mlp(log_offsets(height, width, self.mlp.fc1.weight))

    def forward(self, height: int, width: int) -> torch.Tensor:
        """The bias of all pairs of positions, (1, heads, N, N) with N = height * width."""
        return expand_rel_pos_table(self.table(height, width), height, width)


class NoRelPos(nn.Module):
    """No bias, for attention without positions."""

    def forward(self, height: int, width: int) -> None:
        """None, whatever the size."""
        return None
