"""Making a trained model fast for inference without changing what it computes."""

import copy
import logging
from typing import Literal

import torch
from timm.models import reparameterize_model
from torch import nn

from ..network import Attention, CoAtNet, GlobalCore, RelPosBias, RelPosMlp, SoftmaxAttention
from ..tables import feature_sizes
from . import onednn
from .expanded import ExpandedRelPos
from .frozen import Frozen
from .microbatch import MicroBatched, largest_activations
from .precision import multiplies_faster
from .quantize import check_calibration, quantize_parts

_logger = logging.getLogger(__name__)

# Positions of a feature map of 384 pixels, the largest published size. Expanded, the tables of coatnet_1 take 240 MB
# there, and 16 times that at twice the size. Tables that are not expanded cost a tenth of the time.
_MAX_EXPANDED = 576


def optimize_for_inference(
    model: CoAtNet,
    dtype: torch.dtype | None = None,
    compile: bool = False,
    quantize: Literal['int8'] | None = None,
    calibration: torch.Tensor | None = None,
) -> nn.Module:
    """A copy of a model that computes the same faster.

    Batch norms and layer scales are folded into the layers beside them. Relative position tables are expanded once for
    the `img_size` of the model if that is not large; other sizes work as before. Memory is laid out with channels last.

    Args:
        model: A CoAtNet, on any device.
        dtype: Precision that is enough, e.g. `torch.bfloat16`; that of the model unless given. CPUs that multiply
            matrices faster in float32 compute in float32, and a line in the log says so. Logits are float32 in any
            case, and images may be float32.
        compile: Compile for this machine with `torch.compile`, weights frozen; the first call takes about a minute.
        quantize: `'int8'` computes convolutions and linear layers with 8-bit integers, on CPUs. This needs torchao
            (extra `quantize`), compiles in any case, and is for one size of images.
        calibration: Images (B, in_chans, H, W), prepared like the images to come, from which `quantize` takes the
            ranges of values; a few dozen will do.

    Returns:
        A model in evaluation mode: images (B, in_chans, H, W) -> (B, num_classes). It cannot be trained.

    Raises:
        TypeError: If the model is no CoAtNet.
        ValueError: If `quantize` does not exist, or does not go with the other arguments.
        ImportError: If torchao is needed and not installed.
    """
    if not isinstance(model, CoAtNet):
        raise TypeError(f'optimize_for_inference needs a CoAtNet, not {type(model).__name__}.')
    weight = next(model.parameters())
    on_cpu = weight.device.type == 'cpu'
    images = None if quantize is None else check_calibration(quantize, calibration, model, dtype)
    dtype = dtype or weight.dtype
    if on_cpu and dtype in (torch.bfloat16, torch.float16) and not multiplies_faster(dtype):
        _logger.warning('This CPU multiplies matrices faster in float32 than in %s, so float32 it is.', dtype)
        dtype = torch.float32
    model = copy.deepcopy(model).eval().to(torch.promote_types(weight.dtype, torch.float32))
    model = reparameterize_model(model, inplace=True)
    _replace_attention(model, by_rows=on_cpu)
    model.requires_grad_(False)
    elements = largest_activations(model) if on_cpu else []
    model.to(dtype=dtype, memory_format=torch.channels_last)

    def prepare(_: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        if images is not None and args[0].shape[1:] != images.shape[1:]:
            shape, known = tuple(args[0].shape[1:]), tuple(images.shape[1:])
            raise ValueError(f'This model was quantised for images of {known}, got {shape}; resize them.')
        return (args[0].to(dtype=dtype, memory_format=torch.channels_last),)

    model.register_forward_pre_hook(prepare)
    model.register_forward_hook(lambda _, __, logits: logits.float())
    if on_cpu:
        _optimize_for_cpu(model, elements, compile, images)
    elif compile:
        model.compile()
    return model


def _replace_attention(model: CoAtNet, by_rows: bool) -> None:
    """Expand position tables, and have large feature maps computed row by row."""
    from .row_attention import RowCore, TableOfSize  # defines an operator, which takes longer than all other imports

    sizes = feature_sizes(model.img_size, len(model.stages), model.cfg.patch_size)
    for stage, size in zip(model.stages, sizes, strict=True):
        for attn in stage.modules():
            if not isinstance(attn, Attention) or not isinstance(attn.rel_pos, (RelPosBias, RelPosMlp)):
                continue
            rel_pos, (height, width) = attn.rel_pos, attn.core.grid(*size)
            if by_rows and type(attn.core) is GlobalCore and type(attn.core.form) is SoftmaxAttention:
                attn.core, attn.rel_pos = RowCore(attn.num_heads), TableOfSize(rel_pos)
            if height * width <= _MAX_EXPANDED:
                attn.rel_pos = ExpandedRelPos(rel_pos, height, width, otherwise=attn.rel_pos)


def _optimize_for_cpu(model: CoAtNet, elements: list[float], compile: bool, calibration: torch.Tensor | None) -> None:
    """Quantise and compile the stem and the stages, or else pack them; and let them take a few images at a time."""
    parts = [model.stem, *model.stages]
    compile = compile or calibration is not None
    if calibration is not None:
        parts = quantize_parts(parts, calibration)
    if compile:
        parts = [Frozen(part) for part in parts]
    elif onednn.is_available():
        onednn.pack(model)
    # The input of the stem has the resolution of the image; the input of a stage has that of the output before it.
    reductions = [1, *(info['reduction'] for info in model.feature_info)]
    parts = [MicroBatched(part, elements[i] * reductions[i] ** 2, equal=compile) for i, part in enumerate(parts)]
    model.stem, model.stages = parts[0], nn.Sequential(*parts[1:])
