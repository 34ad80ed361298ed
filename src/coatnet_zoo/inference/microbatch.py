"""Computing a batch a few images at a time, because large blocks of memory are expensive on CPUs.

glibc returns freed blocks of more than 32 MB to the system, and the system hands out new blocks page by page, cleared.
That takes a quarter of the time of a batch of 8 at 224 pixels. Fewer images at once need smaller blocks, which are used
again and fit the caches better. The results are the same.
"""

import copy
import math

import torch
from torch import nn

from ..network import CoAtNet

_LARGEST = 32 << 20  # bytes: glibc's DEFAULT_MMAP_THRESHOLD_MAX


def largest_activations(model: CoAtNet) -> list[float]:
    """Elements of the largest tensor that the stem and each of the stages of a model make, per pixel of an image."""
    model = copy.deepcopy(model).to('meta')
    largest = []
    for part in (model.stem, *model.stages):
        sizes: list[int] = []

        def note(_: nn.Module, __: tuple, output: torch.Tensor | None, sizes: list[int] = sizes) -> None:
            if output is not None:
                sizes.append(output.numel())

        for module in part.modules():
            module.register_forward_hook(note)
        largest.append(sizes)
    model(torch.empty(1, model.in_chans, *model.img_size, device='meta'))
    return [max(sizes) / math.prod(model.img_size) for sizes in largest]


def chunk_size(batch: int, bytes_per_image: float) -> int:
    """How many images to compute at once, so that the parts of a batch are about equal."""
    parts = math.ceil(batch / max(1, int(_LARGEST / bytes_per_image)))
    return math.ceil(batch / parts)


class MicroBatched(nn.Module):
    """A part of a model that takes a few images at a time.

    Args:
        module: (B, C, H, W) -> (B, C', H', W').
        elements: Elements of the largest tensor of the module, per position of its input.
        equal: Take the same number of images every time, because another number compiles a compiled module anew.
    """

    def __init__(self, module: nn.Module, elements: float, equal: bool) -> None:
        super().__init__()
        self.module = module
        self.elements = elements
        self.equal = equal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the module."""
        batch = len(x)
        chunk = chunk_size(batch, self.elements * x.shape[-2] * x.shape[-1] * x.element_size())
        if chunk == batch:
            return self.module(x)
        if self.equal and batch % chunk:
            x = torch.cat([x, x[: -batch % chunk]])
        return torch.cat([self.module(part) for part in x.split(chunk)])[:batch]
