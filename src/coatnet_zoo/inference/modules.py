"""Modules that replace those of the network in models for inference: the same results in less time.

Most are replaced by changing their class, so names and weights stay.
"""

import torch
import torch.nn.functional as F
from timm.layers import SqueezeExcite
from torch import nn

from ..network import BiasAct, MBConv, Stage, Stem, TransformerBlock, expand_rel_pos_table
from .microbatch import microbatch, widest_layer


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution as a matrix product, which reads weights as they are; oneDNN reorders them in every call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C_out, H, W)."""
        x = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1)).permute(0, 3, 1, 2)
        return x if self.bias is None else x.add_(self.bias.view(1, -1, 1, 1))


class ShiftedSqueezeExcite(SqueezeExcite):
    """Squeeze-excite and the bias that is left of the batch norm after it (`BiasAct`), in one pass."""

    shift: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        gate = self.gate(self.fc2(self.act(self.bn(self.fc1(x.mean((2, 3), keepdim=True))))))
        return torch.addcmul(self.shift, x, gate)


class InPlaceMBConv(MBConv):
    """An MBConv that adds the shortcut in place, with few passes over memory around squeeze-excite."""

    def prepare(self) -> None:
        """Move the bias that is left of a norm into the squeeze-excite before it."""
        if type(self.norm2) is BiasAct:
            self.se_early.__class__ = ShiftedSqueezeExcite
            self.se_early.register_buffer('shift', self.norm2.bias)
            self.norm2 = self.norm2.act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See `MBConv.forward`."""
        shortcut = self.shortcut(x)
        x = self.norm1(self.conv1_1x1(self.down(self.pre_norm(x))))
        x = self.se(self.norm2(self.se_early(self.conv2_kxk(x))))
        return self.drop_path(self.norm3(self.conv3_1x1(x))).add_(shortcut)


class InPlaceTransformerBlock(TransformerBlock):
    """A Transformer block that adds its input in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See `TransformerBlock.forward`."""
        x = self.drop_path1(self.ls1(self.attn(self.norm1(x)))).add_(self.shortcut(x))
        hidden = self.mlp(self.norm2(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.drop_path2(self.ls2(hidden)).add_(x)


class MicrobatchedStem(Stem):
    """A stem that computes a few images at a time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See `Stem.forward`."""
        return microbatch(super().forward, x, widest_layer(self))


class MicrobatchedStage(Stage):
    """A stage that computes a few images at a time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See `Stage.forward`."""
        return microbatch(super().forward, x, widest_layer(self))


_FASTER = (MicrobatchedStem, MicrobatchedStage, InPlaceMBConv, InPlaceTransformerBlock)
FASTER_PARTS = {kind.__base__: kind for kind in _FASTER}  # by the class that each replaces


class KeptRelPos(nn.Module):
    """Positions that are computed once for one size of the feature map, (height, width).

    The bias of all pairs of positions is kept if it has at most `budget` bytes, else the table.
    """

    def __init__(self, rel_pos: nn.Module, height: int, width: int, budget: int) -> None:
        super().__init__()
        self.rel_pos, self.size = rel_pos, (height, width)
        self.eval()
        with torch.inference_mode(False), torch.no_grad():
            table = rel_pos(height, width)
            fits = table.shape[1] * (height * width) ** 2 * table.itemsize <= budget
            # Of three dimensions, because `channels_last` changes the layout of four.
            self.register_buffer('bias', expand_rel_pos_table(table, height, width)[0] if fits else table.clone())

    def forward(self, height: int, width: int) -> torch.Tensor:
        """The bias, (1, heads, N, N) with N = height * width, if it is kept; else a table."""
        if (height, width) != self.size:
            return self.rel_pos(height, width)
        return self.bias[None] if self.bias.ndim == 3 else self.bias
