"""What happens around a call: a transform of torch, a compiler, gradients; or nothing."""

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def is_transformed(x: torch.Tensor) -> bool:
    """Whether `torch.func` or forward-mode differentiation tracks the tensor."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x) or forward_ad.unpack_dual(x).tangent is not None


def is_eager_inference(x: torch.Tensor) -> bool:
    """Whether a call is eager, on a CPU and without gradients, and torch neither records nor transforms the call.

    TorchScript must not compile this function.

    Args:
        x: A tensor that the call computes with.
    """
    return (
        not torch.compiler.is_compiling()
        and type(x) in (torch.Tensor, nn.Parameter)
        and x.device.type == 'cpu'
        and not torch.is_grad_enabled()
        and not torch.jit.is_tracing()
        and not is_in_torch_dispatch_mode()
        and not is_transformed(x)
    )
