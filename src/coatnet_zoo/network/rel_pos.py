"""The relative position bias w_{i-j} of CoAtNet paper section 2.1, for any feature map size.

A table has one row for each relative offset and one column for each head. A learned table belongs to the input
size of its model. `resize_rel_pos_table` follows `timm.layers.resize_rel_pos_bias_table`, which keeps near offsets
where they are and stretches the distances between far offsets. timm's function cannot be traced or
differentiated; this function is two weighted gathers.
"""

import functools

import torch
from timm.layers import Mlp, trunc_normal_
from torch import nn

from ..registry import num_offsets
from .resized import replace_values
from .row_attention import expand_by_rows
from .transforms import is_eager_inference


def _lerp_offsets(
    src: int, dst: int, device: torch.device, same: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where the offsets of a resized axis lie between the learned offsets.

    Args:
        src: Number of learned offsets, 2 * size - 1.
        dst: Number of offsets to interpolate for.
        device: Device to compute on.
        same: Whether the table keeps its size, as a tensor if only the graph knows the size.

    Returns:
        Index of the learned offset to the left, index of the learned offset to the right, and the weight of the right
        offset; each (dst,).
    """
    # timm looks for the ratio q of a geometric sequence whose sum spans the new axis, and halves the interval from 1.01
    # to 1.5 down to 1e-6. Two passes over 512 steps each find the same q; compilers fail on a chain of 19 decisions.
    wanted = torch.arange(dst, device=device, dtype=torch.float32) - dst // 2
    steps = torch.arange(1, 512, device=device, dtype=torch.float64)
    exponents = torch.arange(src // 2, device=device, dtype=torch.float64)
    q = torch.tensor(1.01, device=device, dtype=torch.float64)
    width = 0.49
    for _ in range(2):
        width = width / 512
        candidates = q + width * steps
        sums = (1 - candidates ** (src // 2)) / (1 - candidates)
        # A comparison with a number would limit a compiled graph to this size.
        q = q + width * (sums <= wanted[-1]).sum()
    q = q + width / 2
    distances = (q**exponents).cumsum(0)
    learned = torch.cat([-distances.flip(0), distances.new_zeros(1), distances]).float()
    if same is not None:
        # Every offset then equals a learned offset, whose weight is 1.
        learned = torch.where(same, torch.arange(src, device=device, dtype=torch.float32) - src // 2, learned)
    hi = torch.bucketize(wanted, learned).clamp(max=src - 1)
    lo = (hi - 1).clamp(min=0)
    # The clamp at zero gives offsets beyond either end the value at that end.
    to_lo = (wanted - learned[lo]).clamp(min=0)
    to_hi = (learned[hi] - wanted).clamp(min=0)
    span = to_lo + to_hi
    weight = torch.where(span > 0, to_lo / span, torch.full_like(span, 0.5))
    return lo, hi, weight


@functools.lru_cache(maxsize=1024)
def _cached_lerp_offsets(src: int, dst: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    with torch.inference_mode(False), torch.no_grad():
        lo, hi, weight = _lerp_offsets(src, dst, torch.device('cpu'))
        return lo.to(device), hi.to(device), weight.to(device)


def _resize_axis(table: torch.Tensor, dim: int, dst: int, same: torch.Tensor | None) -> torch.Tensor:
    src = table.shape[dim]
    if torch.jit.is_scripting():
        lo, hi, weight = _lerp_offsets(src, dst, table.device)
    elif torch.compiler.is_compiling():
        lo, hi, weight = _lerp_offsets(src, dst, table.device, same)
    else:
        lo, hi, weight = _cached_lerp_offsets(src, dst, table.device)
    shape = [1, 1, 1]
    shape[dim] = dst
    weight = weight.view(shape)
    return table.index_select(dim, lo) * (1 - weight) + table.index_select(dim, hi) * weight


@torch.fx.wrap
def resize_rel_pos_table(table: torch.Tensor, src_size: tuple[int, int], height: int, width: int) -> torch.Tensor:
    """Resize a relative position table as `timm.layers.resize_rel_pos_bias_table` does, differentiably.

    Args:
        table: ((2 * src_size[0] - 1) * (2 * src_size[1] - 1), heads).
        src_size: (height, width) of the feature map of the table.
        height: Rows of the grid of the result.
        width: Columns of the grid of the result.

    Returns:
        ((2 * height - 1) * (2 * width - 1), heads); the table itself if the size is the same.
    """
    same: torch.Tensor | None = None
    if not torch.jit.is_scripting() and isinstance(height + width, torch.SymInt):
        # A comparison of sizes would limit an exported graph to this size, or to all other sizes.
        rows, cols = torch.arange(height, device=table.device), torch.arange(width, device=table.device)
        same = (rows[-1] == src_size[0] - 1) & (cols[-1] == src_size[1] - 1)
    elif height == src_size[0] and width == src_size[1]:
        return table
    heads = table.shape[1]
    # timm respaces both axes even if only one axis changes. This function does the same.
    grid = table.reshape(2 * src_size[0] - 1, 2 * src_size[1] - 1, heads)
    grid = _resize_axis(grid, 0, 2 * height - 1, same)
    grid = _resize_axis(grid, 1, 2 * width - 1, same)
    return grid.reshape(-1, heads)


@torch.fx.wrap
def expand_rel_pos_table(table: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Look up w_{i-j} for every pair of positions of a grid.

    The order of offsets is that of Swin, timm and chinhsuanwu. A query that lies (dy, dx) after its key has the row
    (dy + height - 1) * (2 * width - 1) + (dx + width - 1) of the table.

    Args:
        table: ((2 * height - 1) * (2 * width - 1), heads).
        height: Rows of the grid.
        width: Columns of the grid.

    Returns:
        (1, heads, height * width, height * width), queries before keys.
    """
    # TorchScript compiles every condition except this one.
    if not torch.jit.is_scripting():  # noqa: SIM102
        if is_eager_inference(table):
            return expand_by_rows(table, height, width)
    heads = table.shape[1]
    ys = torch.arange(height, device=table.device)
    xs = torch.arange(width, device=table.device)
    dy = (ys[:, None] - ys[None, :] + (height - 1)).reshape(-1)
    dx = (xs[:, None] - xs[None, :] + (width - 1)).reshape(-1)
    # Two gathers over the two axes need H^2 + W^2 indices; one gather over the flat table needs (H W)^2 indices.
    bias = table.transpose(0, 1).reshape(heads, 2 * height - 1, 2 * width - 1)
    bias = bias.index_select(1, dy).index_select(2, dx)
    bias = bias.reshape(heads, height, height, width, width).permute(0, 1, 3, 2, 4)
    return bias.reshape(1, heads, height * width, height * width)


@torch.fx.wrap
def log_offsets(height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """All relative offsets of a grid on a signed logarithmic scale.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        like: A tensor with the device and dtype of the result.

    Returns:
        ((2 * height - 1) * (2 * width - 1), 2), vertical before horizontal.
    """
    dy = torch.arange(1 - height, height, device=like.device, dtype=torch.float32)
    dx = torch.arange(1 - width, width, device=like.device, dtype=torch.float32)
    offsets = torch.stack(torch.meshgrid(dy, dx, indexing='ij'), dim=-1).reshape(-1, 2)
    return (offsets.sign() * offsets.abs().log1p()).to(like.dtype)


class RelPosBias(nn.Module):
    """A learned scalar per head and relative offset.

    Args:
        window_size: (height, width) of the feature map of the table.
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
        """Resize the table for another feature map size. The parameter stays the same object.

        Args:
            window_size: (height, width).

        Raises:
            RuntimeError: If the table is not a separate parameter, as inside FSDP.
        """
        table = self.relative_position_bias_table
        if type(table) is not nn.Parameter:
            raise RuntimeError(
                f'A position table that is a {type(table).__name__} cannot change its size; call set_input_size before '
                'the model is sharded or parametrised.'
            )
        if tuple(window_size) != tuple(self.window_size):
            with torch.inference_mode(table.is_inference()), torch.no_grad():
                resized = resize_rel_pos_table(table, self.window_size, window_size[0], window_size[1])
            replace_values(table, resized.to(table.dtype))
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
