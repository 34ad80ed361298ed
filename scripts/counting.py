"""Counting the parameters and the multiply-adds of a model."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def num_params(model: nn.Module) -> int:
    """Count the parameters of a model on any device."""
    return sum(p.numel() for p in model.parameters())


def multiply_adds(model: nn.Module, img_size: tuple[int, int] | None = None) -> float:
    """Count the multiply-adds of the matrix products and convolutions of a `CoAtNet` for one image, (height, width)."""
    # On the meta device, because torch does not count the fused attention of CPUs.
    tensors = {name: tensor.to('meta') for name, tensor in model.state_dict().items()}
    dtype = next(model.parameters()).dtype
    image = torch.empty(1, model.in_chans, *(img_size or model.img_size), device='meta', dtype=dtype)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        torch.func.functional_call(model, tensors, (image,))
    return counter.get_total_flops() / 2
