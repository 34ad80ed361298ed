"""Counting the parameters and the multiply-adds of a network."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def num_params(model: nn.Module) -> int:
    """Parameters of a model, on any device."""
    return sum(p.numel() for p in model.parameters())


def multiply_adds(model: nn.Module, img_size: tuple[int, int] | None = None) -> float:
    """Multiply-adds of the matrix products and convolutions of a `CoAtNet` for one image.

    Args:
        model: In evaluation mode; on the meta device nothing is computed.
        img_size: (height, width) of the image in pixels; the native size of the model unless given.
    """
    weight = next(model.parameters())
    image = torch.empty(1, model.in_chans, *(img_size or model.img_size), device=weight.device, dtype=weight.dtype)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return counter.get_total_flops() / 2
