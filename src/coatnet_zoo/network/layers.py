"""The small parts of CoAtNet: pooling, the shortcut of a stage, and keeping the resolution of a stage.

All modules that timm has (norms, squeeze-excite, layer scale, drop path, MLP, head) come from `timm.layers`.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..registry import CoAtNetCfg


class Downsample(nn.Module):
    """The shortcut of the first block of a stage, x <- Proj(Pool(x)), CoAtNet paper section 2.2.

    There is no pooling if the stride is 1, and no projection where the width stays, unless `cfg.shortcut_proj_always`.
    """

    def __init__(
        self, cfg: CoAtNetCfg, dim: int, dim_out: int, stride: int, bias: bool, device=None, dtype=None
    ) -> None:
        super().__init__()
        self.pool = create_pool(cfg.pool_type) if stride == 2 else nn.Identity()
        project = cfg.shortcut_proj_always or dim != dim_out
        self.expand = nn.Conv2d(dim, dim_out, 1, bias=bias, device=device, dtype=dtype) if project else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, dim, H, W) -> (B, dim_out, ceil(H/stride), ceil(W/stride))."""
        return self.expand(self.pool(x))


def create_pool(pool_type: str) -> nn.Module:
    """A pooling layer: (B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2)), the size of the output of a strided convolution.

    The types are `max` (3x3, padding 1; chinhsuanwu), `max2` (2x2; the paper) and `avg2` (2x2; timm). 2x2 windows at
    an odd edge have fewer positions.
    """
    if pool_type == 'max':
        return nn.MaxPool2d(3, stride=2, padding=1)
    return MaxPool2x2() if pool_type == 'max2' else AvgPool2x2()


def add_channels_last(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x + y of two feature maps, (B, C, H, W), in channels-last layout.

    Runtimes cancel two adjacent permutations, but do not move one across an addition. So the addition is between them.
    """
    return (x.permute(0, 2, 3, 1) + y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MaxPool2x2(nn.MaxPool2d):
    """The maximum of 2x2 positions, stride 2: (B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2))."""

    def __init__(self) -> None:
        super().__init__(2, ceil_mode=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool. Symbolic graphs pad instead of using `ceil_mode`, with which torch.export would assume even sizes."""
        if not torch.jit.is_scripting() and is_symbolic(x.shape[-2], x.shape[-1]):
            return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-float('inf')), 2)
        return F.max_pool2d(x, 2, ceil_mode=True)


class AvgPool2x2(nn.AvgPool2d):
    """The average of 2x2 positions, stride 2: (B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2))."""

    def __init__(self) -> None:
        super().__init__(2, ceil_mode=True, count_include_pad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool. See `MaxPool2x2.forward`."""
        if not torch.jit.is_scripting() and is_symbolic(x.shape[-2], x.shape[-1]):
            return F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode='replicate'), 2)
        return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


@torch.jit.unused
def is_symbolic(height: int, width: int) -> bool:
    """Whether torch is making a graph for any height and width. A strict export hides this, so it counts as one."""
    strict = torch.compiler.is_exporting() and torch.compiler.is_dynamo_compiling()
    return strict or isinstance(height, torch.SymInt) or isinstance(width, torch.SymInt)


# `CoAtNetCfg.output_stride`: a stage of stride 2 that keeps the resolution, with the weights as they are. The stage
# computes an output at every second position of its input. On the input shifted by one position it computes the outputs
# between. All shifts (phases) together give a map of the resolution of the input. Inside a phase, neighbours are as far
# apart in pixels as in training, so convolutions and position tables fit without a change. For convolutions this is
# dilation; for attention it also keeps the number of positions that a softmax sees.


@torch.fx.wrap
def split_phases(x: torch.Tensor, phases: int) -> torch.Tensor:
    """Split a feature map into one map for each phase, stacked along the batch.

    (B, C, H, W) -> (phases * phases * B, C, 2 * ceil(H/phases), 2 * ceil(W/phases)), H and W at least `phases`. The
    first stage that keeps the resolution has 2 phases along each side, the next stage has 4.
    """
    rows, cols = _taps(x.shape[2], phases, x.device), _taps(x.shape[3], phases, x.device)
    x = x.index_select(2, rows.flatten()).index_select(3, cols.flatten())
    x = x.unflatten(3, (phases, cols.shape[1])).unflatten(2, (phases, rows.shape[1]))
    return x.permute(2, 4, 0, 1, 3, 5).flatten(0, 2)


def _taps(side: int, phases: int, device: torch.device) -> torch.Tensor:
    """The positions along one side that every phase reads, (phases, length of a phase).

    A phase that is too short repeats its last position, which pooling ignores.
    """
    step = phases // 2  # neighbours of a phase are as far apart as the stages before have left phases
    first = torch.arange(phases, device=device)[:, None]
    last = side - 1 - (side - 1 - first) % step
    length = (side + phases - 1) // phases * 2
    return torch.minimum(first + step * torch.arange(length, device=device), last)


@torch.fx.wrap
def join_phases(x: torch.Tensor, phases: int, height: int, width: int) -> torch.Tensor:
    """Interleave the outputs of all phases: the inverse of `split_phases`, for a map of half its size.

    (phases * phases * B, C, ceil(height/phases), ceil(width/phases)) -> (B, C, height, width).
    """
    x = x.unflatten(0, (phases, phases, x.shape[0] // (phases * phases))).permute(2, 3, 4, 0, 5, 1)
    x = x.flatten(4, 5).flatten(2, 3)
    # A slice would limit an exported graph to some sizes.
    rows, cols = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    return x.index_select(2, rows).index_select(3, cols)
