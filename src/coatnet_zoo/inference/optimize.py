"""Making a trained model fast for inference without changing what it computes."""

import copy
import itertools
import logging
from typing import Literal

import torch
import torch._inductor.config
from timm.models import reparameterize_model
from torch import nn

from ..network.attention import PreAttention
from ..network.model import CoAtNet
from ..network.rel_pos import ExpandedRelPos
from ..tables.grids import feature_sizes
from . import onednn
from .microbatch import MicroBatched, largest_activations
from .precision import multiplies_faster
from .quantize import check_calibration, quantize_parts

_logger = logging.getLogger(__name__)

# Positions of a feature map of 384 pixels, the largest published size. Expanded, the tables of coatnet_1 take 240 MB
# there, and 16 times that at twice the size; not to expand them costs a tenth of the time.
_MAX_EXPANDED = 576


def optimize_for_inference(
    model: CoAtNet,
    dtype: torch.dtype | None = None,
    compile: bool = False,
    quantize: Literal['int8'] | None = None,
    calibration: torch.Tensor | None = None,
) -> nn.Module:
    """A copy of a model that computes the same faster.

    Batch norms and layer scales are folded into the layers beside them, relative position tables are expanded once for
    the model's `img_size` if that is not large (other sizes work as before), and memory is laid out with channels last.

    Args:
        model: A CoAtNet, on any device.
        dtype: Precision that is enough, e.g. `torch.bfloat16`; the model's unless given. It is computed in float32 on
            CPUs that multiply matrices faster that way, which a line in the log says. Logits are float32 all the same,
            and images may be.
        compile: Compile for this machine with `torch.compile`, weights frozen; the first call takes a minute or so.
        quantize: `'int8'` computes convolutions and linear layers with 8-bit integers, on CPUs. This needs torchao
            (extra `quantize`), compiles in any case, and is for one size of images.
        calibration: Images (B, in_chans, H, W), prepared like those to come, that `quantize` takes the ranges of
            values from; a few dozen will do.

    Returns:
        A model in evaluation mode: images (B, in_chans, H, W) -> (B, num_classes). It cannot be trained.

    Raises:
        TypeError: If the model is no CoAtNet.
        ValueError: If `quantize` does not exist, or does not go with the other arguments.
        ImportError: If torchao is needed and not installed.
    """
    if not isinstance(model, CoAtNet):
        raise TypeError(f'optimize_for_inference needs a CoAtNet, not {type(model).__name__}.')
    from .row_attention import RowAttention  # defines an operator, which takes longer than all other imports here

    weight = next(model.parameters())
    on_cpu = weight.device.type == 'cpu'
    if quantize is not None:
        calibration = check_calibration(quantize, calibration, model, dtype)
    dtype = dtype or weight.dtype
    if on_cpu and dtype in (torch.bfloat16, torch.float16) and not multiplies_faster(dtype):
        _logger.warning('This CPU multiplies matrices faster in float32 than in %s, so float32 it is.', dtype)
        dtype = torch.float32
    model = copy.deepcopy(model).eval().to(torch.promote_types(weight.dtype, torch.float32))
    model = reparameterize_model(model, inplace=True)
    sizes = feature_sizes(model.img_size, len(model.stages), model.cfg.patch_size)
    for stage, size in zip(model.stages, sizes, strict=True):
        for block in stage.blocks:
            attn = getattr(block, 'attn', None)
            if isinstance(attn, PreAttention):
                height, width = attn.table_size(size)
                if height * width <= _MAX_EXPANDED:
                    attn.rel_pos = ExpandedRelPos(attn.rel_pos, height, width)
                if on_cpu and type(attn) is PreAttention:
                    block.attn = RowAttention(attn)
    model.requires_grad_(False)
    elements = largest_activations(model) if on_cpu else []
    model.to(dtype=dtype, memory_format=torch.channels_last)

    def prepare(_: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        if calibration is not None and args[0].shape[1:] != calibration.shape[1:]:
            shape, known = tuple(args[0].shape[1:]), tuple(calibration.shape[1:])
            raise ValueError(f'This model was quantised for images of {known}, got {shape}; resize them.')
        return (args[0].to(dtype=dtype, memory_format=torch.channels_last),)

    model.register_forward_pre_hook(prepare)
    model.register_forward_hook(lambda _, __, logits: logits.float())
    if on_cpu:
        _optimize_for_cpu(model, elements, compile or quantize is not None, calibration)
    elif compile:
        model.compile()
    return model


class _Frozen(nn.Module):
    """A module that is compiled for inference, with its weights as constants."""

    _numbers = itertools.count()

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

        def call(x: torch.Tensor) -> torch.Tensor:
            return module(x)

        # What the compiler learns of sizes, and how often it compiles anew, it counts by function. Modules of one class
        # share theirs: widths that differ from stage to stage would pass for sizes that change from call to call.
        call.__code__ = call.__code__.replace(co_name=f'{type(module).__name__}_{next(self._numbers)}')
        self.compiled = torch.compile(call)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Both halves of the compiler look at this setting, which the `options` of torch.compile show only one of them;
        # and it has no effect where gradients are on.
        with torch._inductor.config.patch(freezing=True), torch.no_grad():
            return self.compiled(x)


def _optimize_for_cpu(model: CoAtNet, elements: list[float], compile: bool, calibration: torch.Tensor | None) -> None:
    """Quantise and compile the stem and the stages, or else pack them; and have them take a few images at a time."""
    parts = [model.stem, *model.stages]
    if calibration is not None:
        parts = quantize_parts(parts, calibration)
    if compile:
        parts = [_Frozen(part) for part in parts]
    elif onednn.is_available():
        onednn.pack(model)
        parts = [model.stem, *model.stages]
    # The stem's input has the image's resolution, and that of every stage the one that the part before gives.
    reductions = [1, *(info['reduction'] for info in model.feature_info)]
    parts = [MicroBatched(part, elements[i] * reductions[i] ** 2, equal=compile) for i, part in enumerate(parts)]
    model.stem, model.stages = parts[0], nn.Sequential(*parts[1:])
