"""Packing the weights of a model once, for models that are not compiled."""

import torch
from timm.layers import Mlp
from torch import nn

from ..network import (
    HAS_ONEDNN,
    Attention,
    CoAtNet,
    Downsample,
    MBConv,
    PatchStem,
    Stem,
    TransformerBlock,
    is_exactly,
    pack_layer,
)

# Modules whose convolutions and linear layers are packed. Squeeze-excite has one position, and packing gains nothing.
_PACKED = (Stem, PatchStem, MBConv, Downsample, Attention)


def is_available(dtype: torch.dtype) -> bool:
    """Whether this build of torch has the operators, and this CPU the instructions that they need for a precision."""
    if not HAS_ONEDNN or not hasattr(torch.ops.mkldnn, '_reorder_convolution_weight'):
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if dtype == torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return dtype == torch.float32


def _is_packable(layer: nn.Module) -> bool:
    if is_exactly(layer, nn.Conv2d):
        return layer.padding_mode == 'zeros' and not isinstance(layer.padding, str)
    return is_exactly(layer, nn.Linear)


def pack(model: CoAtNet) -> None:
    """Pack the convolutions and linear layers of a model in place.

    Args:
        model: A reparameterised model on the CPU, in evaluation mode.
    """
    for part in (model.stem, model.stages):
        parents = [module for module in part.modules() if is_exactly(module, *_PACKED)]
        blocks = [module for module in part.modules() if is_exactly(module, TransformerBlock)]
        parents += [block.mlp for block in blocks if is_exactly(block.mlp, Mlp)]
        for layer in [child for parent in parents for child in parent.children() if _is_packable(child)]:
            pack_layer(layer)
