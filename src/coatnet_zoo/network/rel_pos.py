"""The relative position bias w_{i-j} of CoAtNet paper section 2.1, for any feature map size.

A table has one row for each relative offset and one column for each head. A learned table belongs to the input size of
its model. `resize_rel_pos_table` follows `timm.layers.resize_rel_pos_bias_table`, which keeps near offsets where they
are and stretches the distances between far offsets. timm's can be neither traced nor differentiated; ours can.
"""

import functools

import torch
from timm.layers import Mlp, trunc_normal_
from torch import nn

from ..registry import num_offsets
from .layers import is_symbolic


class RelPosBias(nn.Module):
    """A learned scalar per head and relative offset.

    Args:
        window_size: (height, width) of the feature map of the table.
        num_heads: Attention heads.
    """

    def __init__(self, window_size: tuple[int, int], num_heads: int, device=None, dtype=None) -> None:
        super().__init__()
        self.window_size = window_size
        shape = (num_offsets(window_size), num_heads)
        self.relative_position_bias_table = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the table as ViTs initialise positions: truncated normal of standard deviation 0.02."""
        trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, height: int, width: int) -> torch.Tensor:
        """The table of a grid of positions, ((2 * height - 1) * (2 * width - 1), heads)."""
        return resize_rel_pos_table(self.relative_position_bias_table, self.window_size, height, width)

    def set_window_size(self, window_size: tuple[int, int]) -> None:
        """Resize the table for another feature map size, (height, width). The table becomes a new parameter."""
        table = self.relative_position_bias_table
        if tuple(window_size) != tuple(self.window_size):
            with torch.inference_mode(False), torch.no_grad():
                resized = resize_rel_pos_table(table, self.window_size, *window_size).to(table.dtype)
                self.relative_position_bias_table = nn.Parameter(resized, requires_grad=table.requires_grad)
        self.window_size = window_size


class RelPosMlp(nn.Module):
    """The bias as an MLP of log-spaced offsets, for any size: timm's `RelPosMlp` in its 'cr' mode (after Swin-V2)."""

    def __init__(self, num_heads: int, hidden_dim: int, device=None, dtype=None) -> None:
        super().__init__()
        # 0.125 is timm's dropout on the hidden layer while training.
        self.mlp = Mlp(2, hidden_dim, num_heads, act_layer=nn.ReLU, drop=(0.125, 0.0), device=device, dtype=dtype)

    def forward(self, height: int, width: int) -> torch.Tensor:
        """The table of a grid of positions, ((2 * height - 1) * (2 * width - 1), heads)."""
        return self.mlp(log_offsets(height, width, self.mlp.fc1.weight))


class NoRelPos(nn.Module):
    """No bias, for attention without positions."""

    def forward(self, height: int, width: int) -> None:
        """Return None, for any size."""


@torch.fx.wrap
def log_offsets(height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """All relative offsets on a signed logarithmic scale, ((2 * height - 1) * (2 * width - 1), 2), vertical first."""
    dy = torch.arange(1 - height, height, device=like.device, dtype=torch.float32)
    dx = torch.arange(1 - width, width, device=like.device, dtype=torch.float32)
    offsets = torch.stack(torch.meshgrid(dy, dx, indexing='ij'), dim=-1).reshape(-1, 2)
    return (offsets.sign() * offsets.abs().log1p()).to(like.dtype)


def expand_rel_pos_table(table: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Look up w_{i-j} for every pair of positions of a grid.

    ((2 * height - 1) * (2 * width - 1), heads) -> (1, heads, N, N), queries before keys, with N = height * width.

    The order of offsets is that of Swin, timm and chinhsuanwu. A query that lies (dy, dx) after its key has the row
    (dy + height - 1) * (2 * width - 1) + (dx + width - 1) of the table. A 4-D table is expanded already.
    """
    if table.ndim == 4:
        return table
    ys = torch.arange(height, device=table.device)
    xs = torch.arange(width, device=table.device)
    return look_up_pairs(table, height, width, ys, xs)


def look_up_pairs(table: torch.Tensor, height: int, width: int, ys: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
    """`expand_rel_pos_table` of a table, with the numbers of the grid's rows (height,) and columns (width,) given."""
    heads, rows = table.shape[1], 2 * height - 1
    # First all pairs of columns: the biases of a query and a row of keys then lie side by side, (heads, query's column,
    # dy, key's column). The second lookup copies such rows to where they belong, once for each query and row of keys.
    dx = xs[:, None] - xs + (width - 1)
    bias = table.transpose(0, 1).reshape(heads, rows, 2 * width - 1).index_select(2, dx.reshape(-1))
    bias = bias.reshape(heads, rows, width, width).transpose(1, 2).reshape(heads, width * rows, width)
    dy = xs[:, None] * rows + (ys[:, None, None] - ys + (height - 1))
    return bias.index_select(1, dy.reshape(-1)).reshape(1, heads, height * width, height * width)


@torch.fx.wrap
def resize_rel_pos_table(table: torch.Tensor, src_size: tuple[int, int], height: int, width: int) -> torch.Tensor:
    """Resize the table of one feature map size for another, as timm does, differentiably.

    ((2 * src_size[0] - 1) * (2 * src_size[1] - 1), heads) -> ((2 * height - 1) * (2 * width - 1), heads). The result is
    the table itself if the size is the same.
    """
    same: torch.Tensor | None = None
    if not torch.jit.is_scripting() and is_symbolic(height, width):
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


def _resize_axis(table: torch.Tensor, dim: int, dst: int, same: torch.Tensor | None) -> torch.Tensor:
    src = table.shape[dim]
    if torch.jit.is_scripting() or torch.compiler.is_compiling():
        lo, hi, weight = _lerp_offsets(src, dst, table.device, same)
    else:
        lo, hi, weight = _eager_lerp_offsets(src, dst, table.device)
    shape = [1, 1, 1]
    shape[dim] = dst
    weight = weight.view(shape)
    return table.index_select(dim, lo) * (1 - weight) + table.index_select(dim, hi) * weight


def _eager_lerp_offsets(src: int, dst: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # Under a `FakeTensorMode`, new tensors have no values, and must not be remembered.
    is_real = type(torch.empty(0)) is torch.Tensor
    return _cached_lerp_offsets(src, dst, device) if is_real else _lerp_offsets(src, dst, device)


@functools.lru_cache(maxsize=1024)
def _cached_lerp_offsets(src: int, dst: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    with torch.inference_mode(False), torch.no_grad():
        lo, hi, weight = _lerp_offsets(src, dst, torch.device('cpu'))
        return lo.to(device), hi.to(device), weight.to(device)


def _lerp_offsets(
    src: int, dst: int, device: torch.device, same: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Locate the `dst` offsets of a resized axis between the `src` learned offsets.

    The results are the index of the learned offset to the left, that to the right, and the weight of the right one,
    each (dst,). `same` is whether the table keeps its size, as a tensor, if the size is known only in the graph.
    """
    # timm bisects the ratio q of a geometric sequence whose sum spans the new axis, between 1.01 and 1.5, to 1e-6.
    # Compilers fail on a chain of 19 decisions; two grid searches of 512 steps find the same q.
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
    # Few runtimes have `bucketize`, so this counts. The counts are integers, as Core ML counts in floating point.
    hi = (learned[:-1] < wanted[:, None]).to(torch.int64).sum(1)
    lo = (learned[1:-1] < wanted[:, None]).to(torch.int64).sum(1)
    # The clamp at zero gives offsets beyond either end the value at that end.
    to_lo = (wanted - learned[lo]).clamp(min=0)
    to_hi = (learned[hi] - wanted).clamp(min=0)
    span = to_lo + to_hi
    weight = torch.where(span > 0, to_lo / span, torch.full_like(span, 0.5))
    return lo, hi, weight
