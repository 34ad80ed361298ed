"""Batch norms that cannot be folded into a layer, as a product and a sum, for torchao.

If a graph has a batch norm, torchao exports 192 patterns of training, and looks for each. That takes
more than half of the time of quantising `coatnet_1`.
"""

import torch
from torch import nn

from ..network import activation_of, is_foldable, scale_and_shift


class ScaleShift(nn.Module):
    """A batch norm in evaluation mode.

    Args:
        norm: A batch norm that can be folded, see `network.is_foldable`.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        scale, shift = (t.float().reshape(-1, 1, 1) for t in scale_and_shift(norm))
        self.register_buffer('scale', scale)
        self.register_buffer('shift', shift)
        self.act = activation_of(norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.act(torch.addcmul(self.shift, x, self.scale))


def replace_norms(part: nn.Module) -> None:
    """Replace the batch norms of a part of a model, which is in float32."""
    for name, module in list(part.named_modules()):
        if is_foldable(module):
            part.set_submodule(name, ScaleShift(module))
