"""Blocks for inference on CPUs: weights packed once, activations and residuals added inside oneDNN's own loops.

The operators are those that torch's compiler emits; eager mode has no other way to them. What they compute is what the
layers do that they replace.
"""

import torch
from timm.layers import GELU
from torch import nn

from ..network.blocks import MBConv, TransformerBlock
from ..network.model import CoAtNet
from ..network.stem import Stem, check_size

# oneDNN's names of activations, and of the algorithm where there are several.
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
    """What packed layers share: the bias, and the activation as oneDNN calls it."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, act: nn.Module | None) -> None:
        super().__init__()
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.act, self.algorithm = _ACTIVATIONS[type(act or nn.Identity())]


class PackedConv2d(_Packed):
    """A convolution and the activation after it.

    Args:
        conv: Its weights are copied.
        act: An activation that oneDNN knows, or an identity.
    """

    def __init__(self, conv: nn.Conv2d, act: nn.Module | None = None) -> None:
        super().__init__(conv, act)
        self.geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight.detach(), *self.geometry)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C_out, H_out, W_out), channels last."""
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.geometry, self.act, [], self.algorithm
        )

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """The same plus a residual of the output's shape."""
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, residual, self.weight, self.bias, *self.geometry, 'add', None, None, [], None
        )


class PackedLinear(_Packed):
    """A linear layer and the activation after it.

    Args:
        linear: Its weights are copied.
        act: An activation that oneDNN knows, or an identity.
    """

    def __init__(self, linear: nn.Linear, act: nn.Module | None = None) -> None:
        super().__init__(linear, act)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., C_out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.act, [], self.algorithm)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """The same plus a residual of the output's shape."""
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, self.bias, 'add')


def _pack_layers(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Conv2d:
            setattr(module, name, PackedConv2d(child))
        else:
            _pack_layers(child)


class PackedStem(nn.Module):
    """A stem whose batch norms are folded."""

    def __init__(self, stem: Stem) -> None:
        super().__init__()
        layers = list(stem.children())
        packed = []
        for layer, follower in zip(layers, [*layers[1:], None], strict=True):
            if isinstance(layer, nn.Conv2d):
                packed.append(PackedConv2d(layer, None if isinstance(follower, nn.Conv2d) else follower))
        self.convs = nn.Sequential(*packed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `Stem`."""
        check_size(x)
        return self.convs(x)


class PackedMBConv(nn.Module):
    """An MBConv block whose batch norms are folded."""

    def __init__(self, block: MBConv) -> None:
        super().__init__()
        self.shortcut = block.shortcut
        _pack_layers(self.shortcut)
        self.before = nn.Sequential(block.pre_norm, block.down)
        self.conv1 = PackedConv2d(block.conv1_1x1, block.norm1)
        early = not isinstance(block.se_early, nn.Identity)
        self.conv2 = PackedConv2d(block.conv2_kxk, None if early else block.norm2)
        self.between = nn.Sequential(block.se_early, block.norm2) if early else block.se
        self.conv3 = PackedConv2d(block.conv3_1x1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `MBConv`."""
        shortcut = self.shortcut(x)
        x = self.conv2(self.conv1(self.before(x)))
        return self.conv3.add(self.between(x), shortcut)


class PackedTransformerBlock(nn.Module):
    """A Transformer block whose layer scales are folded."""

    def __init__(self, block: TransformerBlock) -> None:
        super().__init__()
        self.shortcut = block.shortcut
        _pack_layers(self.shortcut)
        self.norm1, self.norm2, self.attn = block.norm1, block.norm2, block.attn
        self.attn.qkv, self.attn.proj = PackedLinear(block.attn.qkv), PackedLinear(block.attn.proj)
        self.fc1, self.fc2 = PackedLinear(block.mlp.fc1, block.mlp.act), PackedLinear(block.mlp.fc2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `TransformerBlock`."""
        shortcut = self.shortcut(x)
        batch, dim, height, width = shortcut.shape
        x = self.attn.attend(self.attn.qkv(self.norm1(x).flatten(2).transpose(1, 2)), height, width)
        x = self.attn.proj.add(x, shortcut.flatten(2).transpose(1, 2))
        normed = self.norm2(x.transpose(1, 2).reshape(batch, dim, height, width))
        x = self.fc2.add(self.fc1(normed.flatten(2).transpose(1, 2)), x)
        return x.transpose(1, 2).reshape(batch, dim, height, width)


def pack(model: CoAtNet) -> None:
    """Replace the blocks of a model in place by packed ones.

    Args:
        model: On the CPU, in evaluation mode, reparameterised.
    """
    if isinstance(model.stem, Stem):
        model.stem = PackedStem(model.stem)
    else:
        _pack_layers(model.stem)
    for stage in model.stages:
        for i, block in enumerate(stage.blocks):
            packed = PackedMBConv(block) if isinstance(block, MBConv) else PackedTransformerBlock(block)
            stage.blocks[i] = packed
