"""Whether a tensor is inside a transform of `torch.func` or of forward-mode differentiation."""

import torch
from torch.autograd import forward_ad


def is_transformed(x: torch.Tensor) -> bool:
    """Whether `torch.func` or forward-mode differentiation tracks the tensor."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x) or forward_ad.unpack_dual(x).tangent is not None
