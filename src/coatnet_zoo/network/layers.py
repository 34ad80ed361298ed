"""The small modules of CoAtNet: pooling, shortcut and classifier head.

All modules that timm has (norms, squeeze-excite, layer scale, drop path, MLP) comes from `timm.layers`.
"""

import torch
import torch.nn.functional as F
from timm.layers import ClassifierHead as TimmClassifierHead
from torch import nn


def _is_symbolic(x: torch.Tensor) -> bool:
    """Whether torch is making a graph for any height and width."""
    return isinstance(x.shape[-2], torch.SymInt) or isinstance(x.shape[-1], torch.SymInt)


class MaxPool2x2(nn.MaxPool2d):
    """The maximum of 2x2 positions, stride 2: (B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2)).

    Windows at an odd edge have fewer positions.
    """

    def __init__(self) -> None:
        super().__init__(2, ceil_mode=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool. Symbolic graphs pad instead of `ceil_mode`, for which torch.export would assume even sizes."""
        if not torch.jit.is_scripting() and _is_symbolic(x):
            return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-float('inf')), 2)
        return F.max_pool2d(x, 2, ceil_mode=True)


class AvgPool2x2(nn.AvgPool2d):
    """The average of 2x2 positions, stride 2: (B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2)).

    Windows at an odd edge have fewer positions.
    """

    def __init__(self) -> None:
        super().__init__(2, ceil_mode=True, count_include_pad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool. Symbolic graphs pad instead of `ceil_mode`, for which torch.export would assume even sizes."""
        if not torch.jit.is_scripting() and _is_symbolic(x):
            return F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode='replicate'), 2)
        return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def create_pool(pool_type: str) -> nn.Module:
    """A stride-2 pooling layer.

    Args:
        pool_type: `max` (3x3, padding 1; chinhsuanwu), `max2` (2x2; the paper) or `avg2` (2x2; timm).

    Returns:
        A module from (B, C, H, W) to (B, C, ceil(H/2), ceil(W/2)), the size of the output of a strided convolution.
    """
    if pool_type == 'max':
        return nn.MaxPool2d(3, stride=2, padding=1)
    if pool_type == 'max2':
        return MaxPool2x2()
    return AvgPool2x2()


class Downsample(nn.Module):
    """The shortcut of the first block of a stage, x <- Proj(Pool(x)), CoAtNet paper section 2.2.

    Args:
        dim: Input channels.
        dim_out: Output channels.
        stride: 1 or 2; no pooling for 1.
        pool_type: See `create_pool`.
        bias: Whether the projection has a bias.
        proj_always: Project even if the width stays the same, as in all implementations except timm's.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        stride: int,
        pool_type: str,
        bias: bool,
        proj_always: bool,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.pool = create_pool(pool_type) if stride == 2 else nn.Identity()
        project = proj_always or dim != dim_out
        self.expand = nn.Conv2d(dim, dim_out, 1, bias=bias, device=device, dtype=dtype) if project else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, dim, H, W) -> (B, dim_out, ceil(H/stride), ceil(W/stride))."""
        return self.expand(self.pool(x))


class ClassifierHead(TimmClassifierHead):
    """timm's pool-and-classify head, with or without a bias of the classifier (chinhsuanwu's code has no bias).

    Args:
        in_features: Channels of the last stage.
        num_classes: Classes; 0 removes the classifier.
        pool_type: timm's global pooling type.
        drop_rate: Dropout before the classifier.
        bias: Whether the classifier has a bias; kept when the classifier is reset.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        pool_type: str,
        drop_rate: float,
        bias: bool,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(in_features, num_classes, pool_type, drop_rate, device=device, dtype=dtype)
        self.fc_bias = bias
        self._drop_unwanted_bias()

    def _drop_unwanted_bias(self) -> None:
        if not self.fc_bias and isinstance(self.fc, nn.Linear):
            self.fc.register_parameter('bias', None)

    def reset(self, num_classes: int, pool_type: str | None = None, **kwargs) -> None:
        """Replace the classifier. See `timm.layers.ClassifierHead.reset`."""
        super().reset(num_classes, pool_type, **kwargs)
        self._drop_unwanted_bias()
