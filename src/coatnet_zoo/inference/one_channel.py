"""Images of one channel for the compiler, which confuses their memory formats if batches have several sizes.

A tensor of one channel is contiguous and has channels last at the same time. For a convolution of any number of such
images, torch's compiler expects a contiguous result, but oneDNN returns channels last. A second channel of zeros makes
the format clear, and adds nothing to the sums.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..network import is_exactly


class _WithZeros(nn.Conv2d):
    """A convolution that adds a channel of zeros to its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(F.pad(x, (0, 0, 0, 0, 0, 1)), self.weight, self.bias)


def add_channel(stem: nn.Module) -> None:
    """Make the first convolution of a stem clear for the compiler, if images have one channel.

    Args:
        stem: A stem that this function changes in place. The stem still takes images of one channel.
    """
    conv = next((m for m in stem.modules() if isinstance(m, nn.Conv2d)), None)
    if is_exactly(conv, nn.Conv2d) and conv.in_channels == 1:
        conv.__class__, conv.in_channels = _WithZeros, 2
        weight = F.pad(conv.weight.detach(), (0, 0, 0, 0, 0, 1)).contiguous(memory_format=torch.channels_last)
        conv.weight = nn.Parameter(weight, requires_grad=False)
