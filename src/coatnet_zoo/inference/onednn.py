"""Layers for inference on CPUs: weights are packed once, and activations are computed inside oneDNN's own loops.

The operators are those that torch's compiler emits; eager mode cannot call them otherwise. A packed layer computes the
layer and the activation that it replaces. Only layers, activations and blocks of exactly known classes are packed.
"""

from typing import Any

import torch
from timm.layers import Mlp
from torch import nn

from ..network import (
    HAS_ONEDNN,
    ONEDNN_ACTIVATIONS,
    Attention,
    CoAtNet,
    Downsample,
    MBConv,
    PatchStem,
    Stage,
    Stem,
    TransformerBlock,
    is_exactly,
)


def _is_packable(layer: nn.Module) -> bool:
    """Whether a module is exactly a layer that has an operator in oneDNN."""
    if is_exactly(layer, nn.Conv2d):
        return layer.padding_mode == 'zeros' and not isinstance(layer.padding, str)
    return is_exactly(layer, nn.Linear)


def _is_activation(act: nn.Module | None) -> bool:
    """Whether a module is exactly an activation that oneDNN has, or an identity."""
    return is_exactly(act, *ONEDNN_ACTIVATIONS) and getattr(act, 'approximate', 'none') == 'none'


def is_available(dtype: torch.dtype) -> bool:
    """Whether this build of torch has the operators, and this CPU the instructions that they need for a precision."""
    if not HAS_ONEDNN or not hasattr(torch.ops.mkldnn, '_reorder_convolution_weight'):
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if dtype == torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return dtype == torch.float32


class _Packed(nn.Module):
    """The common part of packed layers: the bias, and oneDNN's name of the activation."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, act: nn.Module) -> None:
        super().__init__()
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.act, self.algorithm = ONEDNN_ACTIVATIONS[type(act)]

    def _pack(self, weight: torch.Tensor) -> torch.Tensor:
        """Pack the weight in the layout that oneDNN chooses."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        # Packed tensors cannot be copied or pickled.
        return {**super().__getstate__(), 'weight': self.weight.to_dense()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.weight = self._pack(self.weight)


class PackedConv2d(_Packed):
    """A convolution and the activation after it.

    Args:
        conv: The convolution, whose weights are copied.
        act: An activation that oneDNN knows, or an identity.
    """

    def __init__(self, conv: nn.Conv2d, act: nn.Module) -> None:
        super().__init__(conv, act)
        self.geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.weight = self._pack(conv.weight.detach())

    def _pack(self, weight: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._reorder_convolution_weight(weight, *self.geometry)

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
        self.weight = self._pack(linear.weight.detach())

    def _pack(self, weight: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., C_out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.act, [], self.algorithm)


def _pack(parent: nn.Module, name: str, follower: str = '') -> None:
    """Pack a layer of a module, together with the activation after the layer if oneDNN knows that activation."""
    layer, act = getattr(parent, name), getattr(parent, follower, None)
    if not _is_packable(layer):
        return
    packed = PackedConv2d if isinstance(layer, nn.Conv2d) else PackedLinear
    if _is_activation(act):
        setattr(parent, name, packed(layer, act))
        setattr(parent, follower, nn.Identity())
    else:
        setattr(parent, name, packed(layer, nn.Identity()))


def _pack_stem(stem: nn.Module) -> None:
    if is_exactly(stem, Stem, PatchStem):
        names = [name for name, _ in stem.named_children()]
        for name, follower in zip(names, [*names[1:], ''], strict=True):
            _pack(stem, name, follower)


def _pack_block(block: nn.Module) -> None:
    if is_exactly(block, MBConv):
        _pack(block, 'conv1_1x1', 'norm1')
        # With an early squeeze-excite, the activation of norm2 does not follow the convolution.
        _pack(block, 'conv2_kxk', 'norm2' if is_exactly(block.se_early, nn.Identity) else '')
        _pack(block, 'conv3_1x1')
    if is_exactly(block, TransformerBlock) and is_exactly(block.attn, Attention):
        _pack(block.attn, 'qkv')
        _pack(block.attn, 'proj')
    if is_exactly(block, TransformerBlock) and is_exactly(block.mlp, Mlp):
        _pack(block.mlp, 'fc1', 'act')
        _pack(block.mlp, 'fc2')
    if is_exactly(block, MBConv, TransformerBlock) and is_exactly(block.shortcut, Downsample):
        _pack(block.shortcut, 'expand')


def pack(model: CoAtNet) -> None:
    """Replace the convolutions and linear layers of a model in place by packed ones.

    Args:
        model: A reparameterised model on the CPU, in evaluation mode.
    """
    _pack_stem(model.stem)
    for stage in model.stages:
        if is_exactly(stage, Stage):
            for block in stage.blocks:
                _pack_block(block)
