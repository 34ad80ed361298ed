"""Eight-bit integers for inference on CPUs: torchao's static quantisation of convolutions and linear layers.

torchao (extra `quantize`) observes the activations of a few images, and rewrites the exported graph with integer
operators. Weights have one scale per channel; activations have one scale per tensor.
"""

from collections.abc import Sequence

import torch
from torch import nn

from ..network import CoAtNet
from .known import unknown_module


def check_calibration(
    quantize: str, calibration: torch.Tensor | None, model: CoAtNet, dtype: torch.dtype | None
) -> torch.Tensor:
    """Check that a model can be quantised with the arguments of `optimize_for_inference`.

    Args:
        quantize: The type of the integers.
        calibration: Images (B, in_chans, H, W).
        model: The model to quantise.
        dtype: The `dtype` of `optimize_for_inference`.

    Returns:
        The images, at least two, in the memory format channels last.

    Raises:
        ValueError: If the model cannot be quantised, or if images are missing or have another shape.
        ImportError: If torchao is not installed.
    """
    if quantize != 'int8':
        raise ValueError(f"quantize={quantize!r} does not exist; there is 'int8'.")
    weight = next(model.parameters())
    if weight.device.type != 'cpu' or (dtype or weight.dtype) != torch.float32:
        raise ValueError("quantize='int8' is for models in float32 on CPUs; move the model there, and leave out dtype.")
    for name in ('stem', 'stages'):
        unknown = unknown_module(getattr(model, name))
        if unknown is not None:
            path = '.'.join(filter(None, (name, unknown)))
            kind = type(model.get_submodule(path)).__name__
            raise ValueError(f"quantize='int8' does not know what the module {path!r} computes ({kind}); leave it out.")
    if calibration is None or calibration.ndim != 4 or calibration.shape[1] != model.in_chans or not len(calibration):
        has = 'nothing' if calibration is None else tuple(calibration.shape)
        raise ValueError(
            f"quantize='int8' needs calibration=images, a few dozen images of shape "
            f'(B, {model.in_chans}, H, W); got {has}.'
        )
    try:
        import torchao  # noqa: F401
    except ImportError as e:
        raise ImportError("quantize='int8' needs torchao; pip install 'coatnet-zoo[quantize]' once.") from e
    if len(calibration) == 1:
        # torch.export treats a dimension of 1 as a constant.
        calibration = calibration.expand(2, -1, -1, -1)
    return calibration.to(memory_format=torch.channels_last)


def quantize_parts(parts: Sequence[nn.Module], images: torch.Tensor) -> list[nn.Module]:
    """Quantise modules that are called one after the other. The results must be compiled afterwards.

    Args:
        parts: Modules in evaluation mode, on the CPU, in float32.
        images: Images for the first part. The quantised parts take any number of images of this size.

    Returns:
        Graphs that simulate integers until `torch.compile` with freezing turns them into integer operators.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    # Without VNNI, sums of two products of 8 bits each overflow.
    vnni = torch.cpu.get_capabilities().get('avx512_vnni', False)
    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config(reduce_range=not vnni))
    quantized = []
    x = images
    with torch.no_grad():
        for part in parts:
            exported = torch.export.export(part, (x,), dynamic_shapes=({0: torch.export.Dim('batch')},))
            prepared = prepare_pt2e(exported.module(), quantizer)
            x = prepared(x)
            quantized.append(convert_pt2e(prepared))
    return quantized
