"""Folding batch norms and layer scales into the layers next to them, exactly, for inference.

Blocks call these functions in `reparameterize()`, which timm's `reparameterize_model` (and the option `--reparam` of
timm's scripts) calls. Only unmodified modules of known classes are folded, with nothing unknown between them. Each
function returns the module that replaces the norm or the layer scale, or the same module if it cannot be folded.
"""

import torch
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, LayerScale2d, SqueezeExcite, SyncBatchNormAct
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from .layers import AvgPool2x2

_NORMS_WITH_ACTIVATION = (BatchNormAct2d, SyncBatchNormAct, FrozenBatchNormAct2d)
BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d, *_NORMS_WITH_ACTIVATION)


def is_unmodified(module: nn.Module | None, *types: type[nn.Module]) -> bool:
    """Whether a module has exactly one of the given types (default: any), and computes what its class defines.

    Subclasses (LoRA layers, parametrizations), hooks, a `forward` that is replaced on the instance or on the class, and
    parameters of tensor subclasses may change what a module computes.
    """
    if types and type(module) not in types:
        return False
    owner = next(kind for kind in type(module).__mro__ if 'forward' in vars(kind))
    if owner.forward.__module__ != owner.__module__ or hasattr(owner.forward, '__wrapped__'):
        return False
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    if any(callable(getattr(type(module), name, None)) for name in vars(module)):
        return False
    return all(p is None or type(p) is nn.Parameter for p in module._parameters.values())


def is_foldable(norm: nn.Module) -> bool:
    """Whether a module is an unmodified batch norm with statistics, with or without an activation after the norm."""
    return (
        is_unmodified(norm, *BATCH_NORMS)
        and norm.running_mean is not None
        and norm.running_var is not None
        and is_unmodified(getattr(norm, 'drop', nn.Identity()), nn.Identity)
    )


def scale_and_shift(norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Write a batch norm in evaluation mode as `x * scale + shift`: both in float64, both (channels,)."""
    var = _double(norm.running_var) + norm.eps
    scale = var.rsqrt() if norm.weight is None else _double(norm.weight) / var.sqrt()
    shift = _double(norm.running_mean) * scale
    return scale, -shift if norm.bias is None else _double(norm.bias) - shift


def activation_of(norm: nn.Module) -> nn.Module:
    """The activation inside a batch norm, or an identity."""
    # torch's conversion to nn.SyncBatchNorm keeps the activation as a child that is never called.
    return norm.act if isinstance(norm, _NORMS_WITH_ACTIVATION) else nn.Identity()


@torch.no_grad()
def fold_after(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """Fold a batch norm into the layer before it. The activation of the norm stays."""
    if not is_foldable(norm) or not is_unmodified(layer, nn.Conv2d, nn.Linear):
        return norm
    weight, bias = _matrix_and_bias(layer)
    scale, shift = scale_and_shift(norm)
    _set(layer, weight * scale[:, None], shift if bias is None else bias * scale + shift)
    return activation_of(norm)


@torch.no_grad()
def fold_before(norm: nn.Module, layer: nn.Module, between: nn.Module | None = None) -> nn.Module:
    """Fold a batch norm without an activation into the layer after it, which must be linear at every position.

    The module between the two, if any, must commute with `x * scale + shift`, as average pooling does.
    """
    if not is_foldable(norm) or not is_unmodified(activation_of(norm), nn.Identity) or not is_pointwise(layer):
        return norm
    if between is not None and not _commutes_with_affine(between):
        return norm
    weight, bias = _matrix_and_bias(layer)
    scale, shift = scale_and_shift(norm)
    shift = weight @ shift
    _set(layer, weight * scale, shift if bias is None else bias + shift)
    return nn.Identity()


@torch.no_grad()
def fold_layer_scale(layer: nn.Module, layer_scale: nn.Module, between: nn.Module) -> nn.Module:
    """Fold a layer scale into the linear layer before it; between the two is nothing but dropout."""
    if is_unmodified(layer_scale, LayerScale2d) and is_unmodified(layer, nn.Linear) and _commutes_with_affine(between):
        _scale_outputs(layer, _double(layer_scale.gamma))
        return nn.Identity()
    return layer_scale


@torch.no_grad()
def fold_across_se(conv: nn.Module, se: nn.Module, norm: nn.Module) -> nn.Module:
    """Fold the scale of a batch norm into the convolution before it, across the squeeze-excite between them.

    Squeeze-excite computes a gate from its input and multiplies the input by the gate. If the input is scaled by s, and
    the weights of the first layer of squeeze-excite are divided by s, the gate stays the same and the output is scaled
    by s. The shift of the norm comes after the gate and stays. Nothing is folded if a scale is below a thousandth of
    the largest.
    """
    if is_unmodified(se, nn.Identity):
        return fold_after(conv, norm)
    if not is_foldable(norm) or not is_unmodified(conv, nn.Conv2d) or not is_unmodified(se, SqueezeExcite):
        return norm
    scale, shift = scale_and_shift(norm)
    if se.add_maxpool or not is_pointwise(se.fc1) or scale.abs().min() < 1e-3 * scale.abs().max():
        return norm
    _scale_outputs(conv, scale)
    weight, bias = _matrix_and_bias(se.fc1)
    _set(se.fc1, weight / scale, bias)
    return BiasAct(shift.to(conv.weight), activation_of(norm))


class BiasAct(nn.Module):
    """Add a bias per channel, then activate: what is left of a batch norm after `fold_across_se`."""

    def __init__(self, bias: torch.Tensor, act: nn.Module) -> None:
        super().__init__()
        self.register_buffer('bias', bias.reshape(1, -1, 1, 1))
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.act(x + self.bias)


def is_pointwise(layer: nn.Module) -> bool:
    """Whether a module is an unmodified linear layer that computes each position separately."""
    if is_unmodified(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.padding == (0, 0) and layer.groups == 1
    return is_unmodified(layer, nn.Linear)


def _commutes_with_affine(module: nn.Module) -> bool:
    """Whether a module commutes with `x * scale + shift` per channel, in evaluation mode."""
    if is_unmodified(module, nn.AvgPool2d, AvgPool2x2):
        return module.divisor_override is None and module.padding in (0, (0, 0))
    return is_unmodified(module, nn.Identity, nn.Dropout)


def _matrix_and_bias(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The weight as a matrix (outputs, inputs), and the bias, in float64."""
    return _double(layer.weight).flatten(1), None if layer.bias is None else _double(layer.bias)


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.cpu() if tensor.device.type in ('mps', 'xpu') else tensor).double()  # they may lack float64


def _scale_outputs(layer: nn.Module, scale: torch.Tensor) -> None:
    weight, bias = _matrix_and_bias(layer)
    _set(layer, weight * scale[:, None], None if bias is None else bias * scale)


def _set(layer: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    like = layer.weight
    layer.weight = nn.Parameter(weight.reshape(like.shape).to(like), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.to(like), requires_grad=False)
