"""Parts of an optimised model that compute a batch a few images at a time, see `network.in_parts`."""

import copy

import torch
from torch import nn

from ..network import in_parts


def largest_activation(part: nn.Module, chans: int, height: int, width: int) -> float:
    """Count the elements of the largest tensor that a part of a model makes, per position of its input.

    Args:
        part: The stem or a stage, with known modules only (see `unknown_module`). The part runs on the meta device.
        chans: Channels of the input of the part.
        height: Rows of the input of the part.
        width: Columns of the input of the part.
    """
    sizes: list[int] = []

    def note(_: nn.Module, __: tuple, output: torch.Tensor | None) -> None:
        if output is not None:
            sizes.append(output.numel())

    part = copy.deepcopy(part).to('meta')
    for module in part.modules():
        module.register_forward_hook(note)
    part(torch.empty(1, chans, height, width, device='meta', dtype=next(part.parameters()).dtype))
    return max(sizes) / (height * width)


class MicroBatched(nn.Module):
    """A part of a model that computes a few images at a time.

    Args:
        module: (B, C, H, W) -> (B, C', H', W').
        elements: Elements of the largest tensor of the module, per position of its input; None if the module must
            compute all images at once.
        equal: Compute the same number of images every time, because another number makes a compiled module
            compile again.
    """

    def __init__(self, module: nn.Module, elements: float | None, equal: bool) -> None:
        super().__init__()
        self.module = module
        self.elements = elements
        self.equal = equal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Call the module."""
        if not len(x):
            # Packed and compiled layers need at least one image.
            return self.module(x.new_zeros(1, *x.shape[1:]))[:0]
        if self.elements is None:
            return self.module(x)
        bytes_per_image = self.elements * x.shape[-2] * x.shape[-1] * x.element_size()
        return in_parts(self.module, x, bytes_per_image, self.equal)
