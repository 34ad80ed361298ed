"""Folding batch norms and layer scales into the layers next to them, exactly, for inference.

Blocks call these functions in `reparameterize()`. timm's `reparameterize_model` (and the option `--reparam` of timm's
scripts) calls `reparameterize()`. Modules are folded only if their exact classes are known (`is_exactly`), and only if
the exact classes of all modules between them are known.
"""

import torch
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, LayerScale2d, SqueezeExcite, SyncBatchNormAct
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from .exact import is_exactly
from .layers import AvgPool2x2

Linear = nn.Conv2d | nn.Linear
_NORMS_WITH_ACTIVATION = (BatchNormAct2d, SyncBatchNormAct, FrozenBatchNormAct2d)
BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d, *_NORMS_WITH_ACTIVATION)


def is_foldable(norm: nn.Module) -> bool:
    """Whether a module is exactly a batch norm with statistics, with or without an activation after the norm."""
    return (
        is_exactly(norm, *BATCH_NORMS)
        and norm.running_mean is not None
        and norm.running_var is not None
        and is_exactly(getattr(norm, 'drop', nn.Identity()), nn.Identity)
    )


def _is_pointwise(layer: nn.Module) -> bool:
    """Whether a module is exactly a linear layer that computes each position separately."""
    if is_exactly(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.padding == (0, 0) and layer.groups == 1
    return is_exactly(layer, nn.Linear)


def _keeps_constants(module: nn.Module) -> bool:
    """Whether a module keeps `x * scale + shift` unchanged: exactly an average pooling, or an identity."""
    if is_exactly(module, nn.AvgPool2d, AvgPool2x2):
        return module.divisor_override is None and module.padding in (0, (0, 0))
    return is_exactly(module, nn.Identity, nn.Dropout)


def scale_and_shift(norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Write a batch norm in evaluation mode as `x * scale + shift`: both in float64, both (channels,)."""
    var = norm.running_var.double() + norm.eps
    scale = var.rsqrt() if norm.weight is None else norm.weight.double() / var.sqrt()
    shift = norm.running_mean.double() * scale
    return scale, -shift if norm.bias is None else norm.bias.double() - shift


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


def activation_of(norm: nn.Module) -> nn.Module:
    # torch's conversion to nn.SyncBatchNorm keeps the activation as a child that is never called.
    return norm.act if isinstance(norm, _NORMS_WITH_ACTIVATION) else nn.Identity()


@torch.no_grad()
def fold_after(layer: Linear, norm: nn.Module) -> nn.Module:
    """Fold a batch norm into the layer before it.

    Returns:
        The module that replaces the norm: the activation of the norm; or `norm` itself if the norm cannot be folded.
    """
    if not is_foldable(norm) or not is_exactly(layer, nn.Conv2d, nn.Linear):
        return norm
    scale, shift = scale_and_shift(norm)
    weight = layer.weight.double()
    _set(layer, weight * _per_output(scale, weight), _bias(layer) * scale + shift)
    return activation_of(norm)


@torch.no_grad()
def fold_before(norm: nn.Module, layer: Linear, between: nn.Module | None = None) -> nn.Module:
    """Fold a batch norm into the layer after it, which must be linear at every position.

    Args:
        norm: The batch norm.
        layer: The layer.
        between: The modules between the two.

    Returns:
        The module that replaces the norm: an identity; or `norm` itself if the norm cannot be folded or has an
        activation.
    """
    if not is_foldable(norm) or not is_exactly(activation_of(norm), nn.Identity) or not _is_pointwise(layer):
        return norm
    if between is not None and not _keeps_constants(between):
        return norm
    scale, shift = scale_and_shift(norm)
    weight = layer.weight.double()
    _set(layer, weight * _per_input(scale, weight), _bias(layer) + weight.flatten(1) @ shift)
    return nn.Identity()


def _scale_outputs(layer: Linear, scale: torch.Tensor) -> None:
    weight = layer.weight.double()
    _set(layer, weight * _per_output(scale, weight), None if layer.bias is None else layer.bias.double() * scale)


@torch.no_grad()
def fold_layer_scale(layer: Linear, layer_scale: nn.Module, between: nn.Module) -> nn.Module:
    """Fold a layer scale into the layer before it.

    Args:
        layer: The layer.
        layer_scale: The layer scale.
        between: The modules between the two.

    Returns:
        The module that replaces the layer scale: an identity; or `layer_scale` itself if it cannot be folded.
    """
    if not is_exactly(layer_scale, LayerScale2d) or not is_exactly(layer, nn.Linear) or not _keeps_constants(between):
        return layer_scale
    _scale_outputs(layer, layer_scale.gamma.double())
    return nn.Identity()


class BiasAct(nn.Module):
    """Add a bias per channel, then activate. This is the rest of a batch norm after `fold_across_se`.

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
    """Fold the scale of a batch norm into the convolution before it, across the squeeze-excite between them.

    Squeeze-excite computes a gate from its input and multiplies the input by the gate. If the input is scaled by s, and
    the weights of the first layer of squeeze-excite are divided by s, the gate stays the same and the output is scaled
    by s. The shift of the norm comes after the gate and stays.

    Args:
        conv: The convolution.
        se: timm's squeeze-excite, or an identity.
        norm: The batch norm.

    Returns:
        The module that replaces the norm; or `norm` itself if the norm cannot be folded, or if its scale is too close
        to zero to divide by.
    """
    if is_exactly(se, nn.Identity):
        return fold_after(conv, norm)
    if not is_foldable(norm) or not is_exactly(conv, nn.Conv2d) or not is_exactly(se, SqueezeExcite):
        return norm
    if se.add_maxpool or not _is_pointwise(se.fc1):
        return norm
    scale, shift = scale_and_shift(norm)
    if scale.abs().min() < 1e-3 * scale.abs().max():
        return norm
    _scale_outputs(conv, scale)
    squeeze = se.fc1
    _set(squeeze, squeeze.weight.double() / _per_input(scale, squeeze.weight), None)
    return BiasAct(shift.to(conv.weight.dtype), activation_of(norm))
