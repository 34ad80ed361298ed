"""Modules that replace those of the network in models for inference: the same results in less time.

A module is replaced by changing its class, so names and weights stay.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..network import MBConv, RelPosBias, RelPosMlp, Stage, Stem, TransformerBlock, expand_rel_pos_table
from .microbatch import microbatch, widest_layer


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution as a matrix product, which reads weights as they are; oneDNN reorders them in every call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C_out, H, W)."""
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class InPlaceMBConv(MBConv):
    """An MBConv that adds the shortcut in place."""

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


class _Kept:
    """The bias of all pairs of positions of one feature map size, computed once instead of in every call."""

    kept_size: tuple[int, int]
    bias: torch.Tensor

    def keep(self, height: int, width: int) -> None:
        """Compute the bias of a feature map of this size."""
        with torch.no_grad():
            bias = expand_rel_pos_table(super().forward(height, width), height, width)[0].contiguous()
        self.kept_size = (height, width)
        # Three dimensions: channels_last would reorder four, and attention would copy the bias in every call.
        self.register_buffer('bias', bias)

    def forward(self, height: int, width: int) -> torch.Tensor:
        """The bias of all pairs, (1, heads, N, N) with N = height * width, of the kept size; else a table."""
        return self.bias[None] if (height, width) == self.kept_size else super().forward(height, width)


class KeptRelPosBias(_Kept, RelPosBias):
    """A learned table of positions, see `_Kept`."""

    def set_window_size(self, window_size: tuple[int, int]) -> None:
        """See `RelPosBias.set_window_size`. The bias of the new size is not kept."""
        super().set_window_size(window_size)
        del self.bias
        self.__class__ = RelPosBias


class KeptRelPosMlp(_Kept, RelPosMlp):
    """A network that computes positions, see `_Kept`."""
