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
        The module for the place of the norm: the activation of the norm; or `norm` itself if it is no batch norm.
    """
    if not isinstance(norm, nn.BatchNorm2d):
        return norm
    scale, shift = _scale_and_shift(norm)
    weight = layer.weight.double()
    _set(layer, weight * _per_output(scale, weight), _bias(layer) * scale + shift)
    return _activation(norm)


@torch.no_grad()
def fold_before(norm: nn.Module, layer: Linear) -> nn.Module:
    """Fold a batch norm into the layer after it. The layer must be 1x1 without padding; an average may lie between.

    Returns:
        The module for the place of the norm: an identity; or `norm` itself if it is no batch norm or has an activation.
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
        The module for the place of the layer scale: an identity; or `layer_scale` itself if it is no layer scale.
    """
    if not isinstance(layer_scale, LayerScale2d):
        return layer_scale
    _scale_outputs(layer, layer_scale.gamma.double())
    return nn.Identity()


class BiasAct(nn.Module):
    """Add a bias per channel, then activate: the rest of a batch norm whose scale is folded across squeeze-excite.

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

    Squeeze-excite computes a gate from its input and multiplies the input by the gate. If the input is scaled by s, and
    the weights of the first layer of squeeze-excite are divided by s, the gate stays the same and the output is scaled
    by s. The shift of the norm comes after the gate and stays.

    Args:
        conv: The convolution.
        se: timm's squeeze-excite, or an identity.
        norm: The batch norm.

    Returns:
        The module for the place of the norm; or `norm` itself if it is no batch norm, or if its scale is too close to
        zero to divide by.
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
