"""Making a trained model fast for inference without changing what it computes."""

import copy

import torch
from timm.models import reparameterize_model
from torch import nn

from .model import CoAtNet
from .rel_pos import ExpandedRelPos, feature_sizes

# Larger feature maps keep their tables: expanded, a head takes 4 MB for 1024 positions, and 16 times that for 4096.
_MAX_EXPANDED = 1024


def optimize_for_inference(model: CoAtNet, dtype: torch.dtype | None = None, compile: bool = False) -> nn.Module:
    """A copy of a model that computes the same faster.

    Batch norms and layer scales are folded into the layers beside them, relative position tables are expanded once for
    the model's `img_size` (other sizes work as before), and memory is laid out with channels last.

    Args:
        model: A CoAtNet, on any device.
        dtype: Precision to compute in, e.g. `torch.bfloat16`; the model's unless given. Logits are float32 all the
            same, and images may be.
        compile: Compile for this machine with `torch.compile`, weights frozen; the first call at a size takes a while.
            Call the model under `torch.no_grad()` or `torch.inference_mode()`.

    Returns:
        A model in evaluation mode: images (B, in_chans, H, W) -> (B, num_classes). It cannot be trained.

    Raises:
        TypeError: If the model is no CoAtNet.
    """
    if not isinstance(model, CoAtNet):
        raise TypeError(f'optimize_for_inference needs a CoAtNet, not {type(model).__name__}.')
    model = reparameterize_model(copy.deepcopy(model).eval(), inplace=True)
    sizes = feature_sizes(model.img_size, len(model.stages))
    for stage, size in zip(model.stages, sizes, strict=True):
        for block in stage.blocks:
            if hasattr(block, 'attn') and size[0] * size[1] <= _MAX_EXPANDED:
                block.attn.rel_pos = ExpandedRelPos(block.attn.rel_pos, *size)
    model.requires_grad_(False)
    model.to(dtype=dtype, memory_format=torch.channels_last)
    parameter = next(model.parameters())

    def prepare(_: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (args[0].to(dtype=parameter.dtype, memory_format=torch.channels_last),)

    model.register_forward_pre_hook(prepare)
    model.register_forward_hook(lambda _, __, logits: logits.float())
    if compile:
        return torch.compile(model, options={'freezing': True})
    return model
