"""Computing a batch a few images at a time, because large blocks of memory are expensive on CPUs.

glibc returns freed blocks of more than 32 MB to the system, and the system hands out new blocks page by page, cleared.
This work takes a quarter of the time of a batch of 8 at 224 pixels. Fewer images at once need smaller blocks, which are
used again and fit the caches better. The results are the same.
"""

import math
from collections.abc import Callable

import torch
from torch import nn

from ..network import is_unmodified

_LARGEST = 32 << 20  # bytes: glibc's DEFAULT_MMAP_THRESHOLD_MAX
_LIBRARIES = ('coatnet_zoo', 'timm', 'torch', 'torchvision')


def is_batch_independent(part: nn.Module) -> bool:
    """Whether a part of a model computes each image separately, and no hook of a user sees its modules.

    Modules of a user's own classes may do anything. Modules of the libraries compute each image separately, except
    batch norms without statistics.
    """
    return all(
        type(module).__module__.partition('.')[0] in _LIBRARIES
        and is_unmodified(module)
        and getattr(module, 'running_mean', module) is not None
        for module in part.modules()
    )


def widest_layer(part: nn.Module) -> int:
    """The most channels that a convolution or a linear layer of a part gives."""
    return max((m.weight.shape[0] for m in part.modules() if isinstance(m, (nn.Conv2d, nn.Linear))), default=1)


def microbatch(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, width: int) -> torch.Tensor:
    """function(x), (B, C, H, W) -> (B, C', H', W'), computed a few images at a time on CPUs.

    The function computes each image separately, and makes tensors of at most `width` channels and H x W positions.
    """
    # A graph for any number of images cannot have a number of parts that depends on it.
    if x.device.type != 'cpu' or not len(x) or torch.compiler.is_compiling():
        return function(x)
    parts = min(len(x), math.ceil(len(x) * x[0, 0].nbytes * width / _LARGEST))
    return function(x) if parts == 1 else torch.cat([function(part) for part in x.tensor_split(parts)])
