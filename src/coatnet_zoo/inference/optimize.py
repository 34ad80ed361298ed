"""Making a trained model fast for inference without changing what it computes."""

import copy
import logging
from collections.abc import Sequence
from typing import Literal

import torch
from timm.models import reparameterize_model
from torch import nn

from ..network import (
    MAX_EXPANDED,
    Attention,
    CoAtNet,
    ExpandedRelPos,
    GlobalCore,
    RelPosBias,
    RelPosMlp,
    SoftmaxAttention,
    TabledRelPos,
    is_exactly,
)
from ..registry import feature_sizes
from ..slow import say_if_slow
from . import onednn
from .frozen import Frozen
from .known import unknown_module
from .microbatch import MicroBatched, largest_activation
from .one_channel import add_channel
from .optimized import OptimizedCoAtNet, check_model
from .precision import multiplies_slower
from .quantize import check_calibration, check_keep_float, named_parts, quantize_parts

_logger = logging.getLogger(__name__)


def optimize_for_inference(
    model: CoAtNet,
    dtype: torch.dtype | None = None,
    compile: bool = False,
    quantize: Literal['int8'] | None = None,
    calibration: torch.Tensor | None = None,
    keep_float: Sequence[str] = (),
) -> OptimizedCoAtNet:
    """A copy of a model that computes the same logits faster.

    Batch norms and layer scales are folded into the layers next to them, and weights are packed. Relative position
    tables are expanded once for the `img_size` of the model, if that size is not large; other sizes work as before.
    Tensors are stored with channels last. Modules with hooks, and modules that are not exactly of a class of this
    package, timm or torch, do not change.

    Args:
        model: A CoAtNet, on any device.
        dtype: Precision of the weights and of the computation, e.g. `torch.bfloat16`. Default: the precision of the
            model. If this CPU multiplies matrices faster in float32, a warning in the log says so. Logits are always
            float32, and images may be float32.
        compile: Compile for this machine with `torch.compile` and frozen weights. The first call takes about a minute.
        quantize: `'int8'` computes convolutions and linear layers with 8-bit integers, on CPUs. This option
            needs torchao (extra `quantize`), always compiles, and limits the model to one size of images.
        calibration: Images (B, in_chans, H, W), prepared like the later images. `quantize` takes the ranges of values
            from these images; a few dozen suffice.
        keep_float: Names of modules, as `model.named_modules()` gives them, whose layers `quantize` leaves in float32.
            `quantization_report` says for which modules this helps most.

    Returns:
        A model in evaluation mode: images (B, in_chans, H, W) -> (B, num_classes). The model cannot be
        trained or moved, takes no other weights and gives no gradients. Calls that ask for these raise an error.

    Raises:
        TypeError: If the model is not a CoAtNet, wraps a CoAtNet, or is optimised already; or if `keep_float` is not a
            sequence of names.
        ValueError: If `quantize` is unknown, or does not suit the other arguments or a module of the model; if a name
            in `keep_float` has no effect; or if the model has a module that cannot be copied, or weights on several
            devices or in several precisions.
        ImportError: If torchao is needed and not installed.
    """
    check_model(model)
    weight = next(model.parameters())
    on_cpu = weight.device.type == 'cpu'
    images = None if quantize is None else check_calibration(quantize, calibration, model, dtype)
    layers = check_keep_float(keep_float, quantize, model)
    dtype = dtype or weight.dtype
    if on_cpu and dtype in (torch.bfloat16, torch.float16) and multiplies_slower(dtype):
        _logger.warning(
            'This CPU multiplies matrices more slowly in %s than in float32; optimise with dtype=torch.float32.', dtype
        )
    with say_if_slow(f'{"Quantising" if quantize else "Optimising"} the model'):
        return _optimize(model, dtype, compile, images, layers)


def _optimize(
    model: CoAtNet, dtype: torch.dtype, compile: bool, calibration: torch.Tensor | None, keep_float: Sequence[str]
) -> OptimizedCoAtNet:
    compile = compile or calibration is not None
    model, elements = fold(model, dtype, compile)
    model = OptimizedCoAtNet.adopt(model, None if calibration is None else tuple(calibration.shape[1:]))
    if elements:
        _optimize_for_cpu(model, elements, compile, calibration, keep_float)
    elif compile:
        model.compile()
    return model


def fold(model: CoAtNet, dtype: torch.dtype, compile: bool) -> tuple[CoAtNet, list[float | None]]:
    """Fold norms and expand positions in a copy of a model.

    Returns:
        The copy; and, on CPUs, the elements of the largest tensor of the stem and of each stage, see
        `largest_activation`.
    """
    weight = next(model.parameters())
    on_cpu = weight.device.type == 'cpu'
    model = copy.deepcopy(model).eval().to(torch.promote_types(weight.dtype, torch.float32))
    _separate(model)
    parts = [model.stem, *model.stages]
    is_known = [unknown_module(part) is None for part in parts]
    model = reparameterize_model(model, inplace=True)
    _replace_attention(model, on_cpu, compile)
    model.eval().requires_grad_(False)  # also the modules that were made here
    elements = _largest_activations(model, is_known) if on_cpu else []
    model.to(dtype=dtype, memory_format=torch.channels_last)
    return model, elements


def _separate(model: nn.Module) -> None:
    """Give every place of a model a separate module, because each layer is folded with the modules next to it."""
    seen: set[nn.Module] = set()
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if module in seen:
            model.set_submodule(path, copy.deepcopy(module))
        seen.add(module)


def _largest_activations(model: CoAtNet, is_known: list[bool]) -> list[float | None]:
    """Count the elements of the largest tensor of the stem and of each stage, per input position; None if unknown."""
    parts = [model.stem, *model.stages]
    inputs = [dict(num_chs=model.in_chans, reduction=1), *model.feature_info]
    found = []
    for part, known, info in zip(parts, is_known, inputs, strict=False):
        shape = [-(-side // info['reduction']) for side in model.img_size]
        found.append(largest_activation(part, info['num_chs'], *shape) if known else None)
    return found


def _replace_attention(model: CoAtNet, on_cpu: bool, compile: bool) -> None:
    """Compute the positions of the native size once.

    Models on CPUs that are not compiled keep no bias of all pairs. Keeping the bias would gain 4 % for one image at 224
    pixels, and would take a fifth more memory. Compiled models on CPUs compute attention on large maps row by row.
    Other models on CPUs do so by themselves.
    """
    sizes = feature_sizes(model.img_size, len(model.stages), model.cfg.patch_size)
    for stage, size in zip(model.stages, sizes, strict=True):
        for attn in stage.modules():
            if not is_exactly(attn, Attention) or not is_exactly(attn.rel_pos, RelPosBias, RelPosMlp):
                continue
            if unknown_module(attn.rel_pos) is not None:
                continue
            rel_pos, (height, width) = attn.rel_pos, attn.core.grid(*size)
            if on_cpu and not compile:
                if is_exactly(rel_pos, RelPosMlp):
                    attn.rel_pos = TabledRelPos(rel_pos, height, width)
                continue
            if on_cpu and is_exactly(attn.core, GlobalCore) and is_exactly(attn.core.attn, SoftmaxAttention):
                from .row_attention import RowCore, TableOfSize  # defines an operator, which takes longest to import

                attn.core, attn.rel_pos = RowCore(attn.num_heads), TableOfSize(rel_pos)
            if height * width <= MAX_EXPANDED:
                attn.rel_pos = ExpandedRelPos(rel_pos, height, width, otherwise=attn.rel_pos)


def _optimize_for_cpu(
    model: OptimizedCoAtNet,
    elements: list[float | None],
    compile: bool,
    calibration: torch.Tensor | None,
    keep_float: Sequence[str],
) -> None:
    """Quantise and compile the stem and the stages, or pack them; and let them compute a few images at a time."""
    if compile:
        add_channel(model.stem)
    parts = [model.stem, *model.stages]
    if calibration is not None:
        parts = quantize_parts(named_parts(model), calibration, keep_float)
    if compile:
        parts = [Frozen(part, f'stage {i}' if i else 'the stem') for i, part in enumerate(parts)]
    elif onednn.is_available(model.dtype):
        onednn.pack(model)
    parts = [MicroBatched(part, largest, equal=compile) for part, largest in zip(parts, elements, strict=True)]
    model.stem = parts[0]
    for i, part in enumerate(parts[1:]):
        model.stages[i] = part  # the sequence itself may have hooks
    # Threads would need compiled parts of more sizes and for other numbers of cores. Saved models have such parts.
    model.streams = not compile and None not in elements and unknown_module(model.norm) is None
