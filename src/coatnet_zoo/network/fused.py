"""Blocks and stems in fewer passes over memory, for ordinary inference on CPUs: in float32, or with packed weights.

Batch norms are folded into convolutions anew in every call, so no folded weight can be out of date. Activations and
sums are computed inside oneDNN's loops, or written over tensors that nobody else can see. The operators are those that
torch's compiler emits; eager mode cannot call them otherwise.
"""

import functools
import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from timm.layers import GELU, DropPath, LayerScale2d, Mlp, SqueezeExcite
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from .attention import Attention
from .blocks import MBConv, TransformerBlock
from .fusion import BiasAct, activation_of, is_foldable, scale_and_shift
from .known import is_known
from .packed import PackedConv2d, PackedLinear
from .parts import in_parts
from .transforms import is_eager_inference

# oneDNN's names of activations, and of the algorithms of an activation with several algorithms. oneDNN's ReLU makes 0
# of NaN, so it is not in this list.
ONEDNN_ACTIVATIONS = {
    nn.Identity: ('none', ''),
    nn.SiLU: ('swish', ''),
    nn.GELU: ('gelu', 'none'),
    GELU: ('gelu', 'none'),
}
# Elements of an input. Below this number, the checks take longer than the passes over memory that they save.
_SMALL = 1 << 16
_OPERATORS = ('_convolution_pointwise', '_linear_pointwise')
# Whether this build of torch has the operators.
HAS_ONEDNN = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)
_PACKED = (PackedConv2d, PackedLinear)
_CONVS, _LINEARS = (nn.Conv2d, PackedConv2d), (nn.Linear, PackedLinear)
_NONE, _DROP_PATH, _DROPOUT = (nn.Identity,), (nn.Identity, DropPath), (nn.Identity, nn.Dropout)
_SCALE, _SE = (nn.Identity, LayerScale2d), (nn.Identity, SqueezeExcite)
# The classes that the layers of a module must have. Dropout and stochastic depth have no effect in evaluation mode.
_PARTS = {
    MBConv: dict(conv1_1x1=_CONVS, conv2_kxk=_CONVS, conv3_1x1=_CONVS, se_early=_SE, se=_SE, drop_path=_DROP_PATH),
    TransformerBlock: dict(
        attn=(Attention,), mlp=(Mlp,), ls1=_SCALE, ls2=_SCALE, drop_path1=_DROP_PATH, drop_path2=_DROP_PATH
    ),
    Attention: dict(qkv=_LINEARS, proj=_LINEARS, proj_drop=_DROPOUT),
    Mlp: dict(fc1=_LINEARS, fc2=_LINEARS, norm=_NONE, drop1=_DROPOUT, drop2=_DROPOUT),
}


def _is_plain(module: nn.Module, dtype: torch.dtype) -> bool:
    """Whether a module is known, in evaluation mode and in a precision on the CPU."""
    if not is_known(module, MBConv, TransformerBlock) or module.training:
        return False
    for p in module._parameters.values():
        if p is not None and (p.dtype != dtype or not p.is_cpu):
            return False
    return all([type(module._modules[name]) in types for name, types in _PARTS.get(type(module), {}).items()])


def _are_plain(parts: Iterable[nn.Module], dtype: torch.dtype) -> bool:
    """Whether all modules inside parts are plain. Blocks have hundreds of modules, which are checked in every call."""
    is_packed, rest = False, list(parts)
    while rest:
        module = rest.pop()
        if not _is_plain(module, dtype):
            return False
        is_packed = is_packed or type(module) in _PACKED
        rest += module._modules.values()
    # Batch norms are folded in float32. Packed weights are folded already, and the CPU has their precision.
    return is_packed or dtype == torch.float32


def can_fuse(parts: Iterable[nn.Module], x: torch.Tensor) -> bool:
    """Whether parts may be computed by this file: ordinary inference, and no hook sees their modules.

    Args:
        parts: Modules, of which all inner modules are checked as well.
        x: Their input, (B, C, H, W).
    """
    return (
        is_eager_inference(x)
        and x.numel() >= _SMALL
        and HAS_ONEDNN
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled('cpu')
        and not _has_any_global_hook()
        and _are_plain(parts, x.dtype)
    )


def _name_of(act: nn.Module) -> tuple[str, str] | None:
    return None if getattr(act, 'approximate', 'none') != 'none' else ONEDNN_ACTIVATIONS.get(type(act))


def _is_usual(conv: nn.Conv2d) -> bool:
    return conv.padding_mode == 'zeros' and not isinstance(conv.padding, str)


def _conv(conv: nn.Conv2d, norm: nn.Module, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
    """norm(conv(x)), or residual + norm(conv(x)). The norm may be the activation that is left of a folded norm."""
    folds = type(conv) is nn.Conv2d and is_foldable(norm)
    act = _name_of(activation_of(norm) if folds else norm)
    if not _is_usual(conv) or act is None or (residual is not None and act[0] != 'none'):
        x = norm(conv(x))
        return x if residual is None else residual + x
    weight, bias = conv.weight, conv.bias
    if folds:
        scale, shift = (t.float() for t in scale_and_shift(norm))
        weight = weight * scale.reshape(-1, 1, 1, 1)
        bias = shift if bias is None else torch.addcmul(shift, bias, scale)
    geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
    if residual is None:
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, act[0], [], act[1])
    sums = (*geometry, 'add', None, None, [], None)
    return torch.ops.mkldnn._convolution_pointwise.binary(x, residual, weight, bias, *sums)


def _linear(linear: nn.Linear, x: torch.Tensor, act: nn.Module) -> torch.Tensor:
    """act(linear(x)) for (B, N, C)."""
    name, algorithm = _name_of(act) or ('none', '')
    # The operator reads beyond the end of a bias with gaps.
    bias = None if linear.bias is None else linear.bias.contiguous()
    x = torch.ops.mkldnn._linear_pointwise(x, linear.weight, bias, name, [], algorithm)
    return x if _name_of(act) else act(x)


def _activate(act: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """act(x); overwrites x if the activation can."""
    return F.silu(x, inplace=True) if type(act) is nn.SiLU else act(x)


def _squeeze_excite(se: nn.Module, norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """norm(se(x)); overwrites x."""
    if type(se) is nn.Identity or se.add_maxpool:
        return norm(se(x))
    gate = se.gate(se.fc2(se.act(se.bn(se.fc1(x.mean((2, 3), keepdim=True))))))
    if type(norm) is BiasAct:
        return _activate(norm.act, torch.addcmul(norm.bias, x, gate, out=x))
    if not is_foldable(norm):
        return norm(x.mul_(gate))
    scale, shift = (t.float().reshape(1, -1, 1, 1) for t in scale_and_shift(norm))
    return _activate(activation_of(norm), torch.addcmul(shift, x, gate * scale, out=x))


def _mbconv(block: MBConv, x: torch.Tensor) -> torch.Tensor:
    no_norm = nn.Identity()
    shortcut = block.shortcut(x)
    x = _conv(block.conv1_1x1, block.norm1, block.down(block.pre_norm(x)))
    if type(block.se_early) is nn.Identity:
        x = _conv(block.conv2_kxk, block.norm2, x)
    else:
        x = _squeeze_excite(block.se_early, block.norm2, _conv(block.conv2_kxk, no_norm, x))
    return _conv(block.conv3_1x1, block.norm3, _squeeze_excite(block.se, no_norm, x), shortcut)


def _positions(x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, H * W, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _transformer(block: TransformerBlock, x: torch.Tensor) -> torch.Tensor:
    attn, mlp, no_act = block.attn, block.mlp, nn.Identity()
    shortcut, x = block.shortcut(x), block.norm1(x)
    height, width = x.shape[2:]
    x = attn.attend(_linear(attn.qkv, _positions(x), no_act), height, width)
    x = _linear(attn.proj, x, no_act).unflatten(1, (height, width)).permute(0, 3, 1, 2)
    x = block.ls1(x).add_(shortcut)
    hidden = _linear(mlp.fc1, _positions(block.norm2(x)), mlp.act)
    hidden = _linear(mlp.fc2, hidden, no_act).unflatten(1, (height, width)).permute(0, 3, 1, 2)
    return block.ls2(hidden).add_(x)


def _layers(layers: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
    layers = list(layers)
    while layers:
        layer = layers.pop(0)
        if isinstance(layer, nn.Conv2d):
            has_norm = layers and not isinstance(layers[0], nn.Conv2d)
            x = _conv(layer, layers.pop(0) if has_norm else nn.Identity(), x)
        else:
            x = layer(x)
    return x


def fused_layers(layers: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
    """The layers of a stem one after the other: convolutions, of which the first halves the size, and norms.

    Args:
        layers: Modules of which `can_fuse` is true.
        x: (B, C, H, W).
    """
    widest = max((layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)), default=1)
    return in_parts(functools.partial(_layers, layers), x, x[0, 0].nbytes * widest / 4)


def _block(x: torch.Tensor, block: nn.Module) -> torch.Tensor:
    return _mbconv(block, x) if type(block) is MBConv else _transformer(block, x)


def fused_blocks(blocks: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
    """The blocks of a stage, MBConv or Transformer, one after the other.

    Args:
        blocks: Blocks of which `can_fuse` is true.
        x: (B, C, H, W).
    """
    first = blocks[0]
    if type(first) is MBConv:
        widest = first.conv1_1x1.out_channels / math.prod(first.conv1_1x1.stride)
    else:
        widest = first.mlp.fc1.out_features
    return in_parts(lambda part: functools.reduce(_block, blocks, part), x, x[0, 0].nbytes * widest)
