"""Folding batch norms and layer scales into the layers beside them, exactly, for inference.

Blocks use these in `reparameterize()`, which timm's `reparameterize_model` (and its scripts' `--reparam`) calls.
"""

import torch
from timm.layers import BatchNormAct2d, LayerScale2d
from torch import nn

Linear = nn.Conv2d | nn.Linear


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch norm in evaluation as `x * scale + shift`, in float64, each (channels,)."""
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def _per_output(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, *[1] * (weight.ndim - 1))


def _per_input(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return values.reshape(1, -1, *[1] * (weight.ndim - 2))


def _set(layer: Linear, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    dtype = layer.weight.dtype
    layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.to(dtype), requires_grad=False)


def _bias(layer: Linear) -> torch.Tensor:
    return layer.weight.new_zeros((), dtype=torch.float64) if layer.bias is None else layer.bias.double()


def _activation(norm: nn.BatchNorm2d) -> nn.Module:
    return norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()


@torch.no_grad()
def fold_after(layer: Linear, norm: nn.Module) -> nn.Module:
    """Fold a batch norm into the layer before it.

    Returns:
        What takes the norm's place: its activation; the module itself if it is no batch norm.
    """
    if not isinstance(norm, nn.BatchNorm2d):
        return norm
    scale, shift = _scale_and_shift(norm)
    weight = layer.weight.double()
    _set(layer, weight * _per_output(scale, weight), _bias(layer) * scale + shift)
    return _activation(norm)


@torch.no_grad()
def fold_before(norm: nn.Module, layer: Linear) -> nn.Module:
    """Fold a batch norm into the layer after it, which must be 1x1 without padding; averages between them are fine.

    Returns:
        What takes the norm's place; the module itself if it is no batch norm, or one with an activation.
    """
    if not isinstance(norm, nn.BatchNorm2d) or not isinstance(_activation(norm), nn.Identity):
        return norm
    scale, shift = _scale_and_shift(norm)
    weight = layer.weight.double()
    _set(layer, weight * _per_input(scale, weight), _bias(layer) + weight.flatten(1) @ shift)
    return nn.Identity()


def _scale_outputs(layer: Linear, scale: torch.Tensor) -> None:
    weight = layer.weight.double()
    _set(layer, weight * _per_output(scale, weight), None if layer.bias is None else layer.bias.double() * scale)


@torch.no_grad()
def fold_layer_scale(layer: Linear, layer_scale: nn.Module) -> nn.Module:
    """Fold a layer scale into the layer before it.

    Returns:
        What takes its place; the module itself if it is none.
    """
    if not isinstance(layer_scale, LayerScale2d):
        return layer_scale
    _scale_outputs(layer, layer_scale.gamma.double())
    return nn.Identity()


class BiasAct(nn.Module):
    """Add a bias per channel, then activate: what is left of a batch norm that squeeze-excite keeps from its layer.

    Args:
        bias: (C,).
        act: The activation.
    """

    def __init__(self, bias: torch.Tensor, act: nn.Module) -> None:
        super().__init__()
        self.register_buffer('bias', bias.reshape(1, -1, 1, 1))
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.act(x + self.bias)


@torch.no_grad()
def fold_across_se(conv: nn.Conv2d, se: nn.Module, norm: nn.Module) -> nn.Module:
    """Fold the scale of a batch norm into the convolution before it although squeeze-excite lies between them.

    Squeeze-excite multiplies by a gate that it computes from its input: scaling that input by s changes nothing but
    the gate, and there the first layer's weights divided by s undo it. The shift comes after the gate and stays.

    Args:
        conv: The convolution.
        se: timm's squeeze-excite, or an identity.
        norm: The batch norm.

    Returns:
        What takes the norm's place; the module itself if it is no batch norm, or has a scale too close to zero to
        divide by.
    """
    if isinstance(se, nn.Identity) or not isinstance(norm, nn.BatchNorm2d):
        return fold_after(conv, norm)
    scale, shift = _scale_and_shift(norm)
    if scale.abs().min() < 1e-3 * scale.abs().max():
        return norm
    _scale_outputs(conv, scale)
    squeeze = se.fc1
    _set(squeeze, squeeze.weight.double() / _per_input(scale, squeeze.weight), None)
    return BiasAct(shift.to(norm.weight.dtype), _activation(norm))
