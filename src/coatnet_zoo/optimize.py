"""Making a trained model fast for inference without changing what it computes."""

import copy

import torch
import torch._inductor.config
from timm.models import reparameterize_model
from torch import nn

from . import onednn
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
        compile: Compile for this machine with `torch.compile`, weights frozen; the first call takes a minute or so.

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
        _compile_frozen(model)
    elif parameter.device.type == 'cpu' and onednn.is_available():
        onednn.pack(model)
    return model


def _compile_frozen(model: nn.Module) -> None:
    """Compile a model in place, so that it stays the model it is, with its weights as constants."""
    model.compile()
    compiled = model._compiled_call_impl

    def call(*args: torch.Tensor) -> torch.Tensor:
        # Both halves of the compiler look at this setting, which the `options` of torch.compile show only one of them;
        # and it has no effect where gradients are on.
        with torch._inductor.config.patch(freezing=True), torch.no_grad():
            return compiled(*args)

    model._compiled_call_impl = call
