"""Layers for inference on CPUs: weights are packed once, and activations are computed inside oneDNN's own loops.

The operators are those that torch's compiler emits; eager mode has no other way to them. A packed layer computes what
the layer and the activation do that it replaces.
"""

import torch
from timm.layers import GELU
from torch import nn

from ..network import CoAtNet, MBConv

# oneDNN's names of activations, and of the algorithms of an activation that has several.
_ACTIVATIONS = {
    nn.Identity: ('none', ''),
    nn.SiLU: ('swish', ''),
    nn.ReLU: ('relu', ''),
    nn.GELU: ('gelu', 'none'),
    GELU: ('gelu', 'none'),
}


def is_available() -> bool:
    """Whether this build of torch has the operators."""
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name)
        for name in ('_convolution_pointwise', '_linear_pointwise', '_reorder_convolution_weight')
    )


class _Packed(nn.Module):
    """The common part of packed layers: the bias, and oneDNN's name of the activation."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, act: nn.Module) -> None:
        super().__init__()
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.act, self.algorithm = _ACTIVATIONS[type(act)]


class PackedConv2d(_Packed):
    """A convolution and the activation after it.

    Args:
        conv: The convolution, whose weights are copied.
        act: An activation that oneDNN knows, or an identity.
    """

    def __init__(self, conv: nn.Conv2d, act: nn.Module) -> None:
        super().__init__(conv, act)
        self.geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight.detach(), *self.geometry)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C_out, H_out, W_out), channels last."""
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.geometry, self.act, [], self.algorithm
        )


class PackedLinear(_Packed):
    """A linear layer and the activation after it.

    Args:
        linear: The linear layer, whose weights are copied.
        act: An activation that oneDNN knows, or an identity.
    """

    def __init__(self, linear: nn.Linear, act: nn.Module) -> None:
        super().__init__(linear, act)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., C_out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.act, [], self.algorithm)


def _pack(parent: nn.Module, name: str, follower: str = '') -> None:
    """Pack a layer of a module, together with the activation after the layer if oneDNN knows that activation."""
    layer, act = getattr(parent, name), getattr(parent, follower, None)
    packed = PackedConv2d if isinstance(layer, nn.Conv2d) else PackedLinear
    if type(act) in _ACTIVATIONS:
        setattr(parent, name, packed(layer, act))
        setattr(parent, follower, nn.Identity())
    else:
        setattr(parent, name, packed(layer, nn.Identity()))


def pack(model: CoAtNet) -> None:
    """Replace the convolutions and linear layers of a model in place by packed ones.

    Args:
        model: On the CPU, in evaluation mode, reparameterised.
    """
    for name, layer in list(model.stem.named_children()):
        if isinstance(layer, nn.Conv2d):
            _pack(model.stem, name, name.replace('conv', 'norm'))
    for block in (block for stage in model.stages for block in stage.blocks):
        if isinstance(getattr(block.shortcut, 'expand', None), nn.Conv2d):
            _pack(block.shortcut, 'expand')
        if isinstance(block, MBConv):
            _pack(block, 'conv1_1x1', 'norm1')
            # With an early squeeze-excite, the activation of norm2 does not follow the convolution.
            _pack(block, 'conv2_kxk', 'norm2' if isinstance(block.se_early, nn.Identity) else '')
            _pack(block, 'conv3_1x1')
        else:
            _pack(block.attn, 'qkv')
            _pack(block.attn, 'proj')
            _pack(block.mlp, 'fc1', 'act')
            _pack(block.mlp, 'fc2')
