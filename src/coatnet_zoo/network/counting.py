"""Counting the parameters and the multiply-adds of a network."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def num_params(model: nn.Module) -> int:
    """Count the parameters of a model on any device."""
    return sum(p.numel() for p in model.parameters())


def multiply_adds(model: nn.Module, img_size: tuple[int, int] | None = None) -> float:
    """Count the multiply-adds of the matrix products and convolutions of a `CoAtNet` for one image.

    Args:
        model: A model in evaluation mode. On the meta device, nothing is computed.
        img_size: (height, width) of the image in pixels. Default: the native size of the model.
    """
    weight = next(model.parameters())
    image = torch.empty(1, model.in_chans, *(img_size or model.img_size), device=weight.device, dtype=weight.dtype)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return counter.get_total_flops() / 2
