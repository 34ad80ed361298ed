"""Eight-bit integers for inference on CPUs: torchao's static quantisation of convolutions and linear layers.

torchao (extra `quantize`) observes the activations of a few images, and rewrites the exported graph with integer
operators. Weights have one scale per channel; activations have one scale per tensor.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import fx, nn

from ..network import CoAtNet
from .graphs import is_inside, leave_float
from .known import unknown_module
from .scale_shift import replace_norms


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


def check_keep_float(keep_float: Sequence[str], quantize: str | None, model: CoAtNet) -> list[str]:
    """Check the modules that stay in floating point.

    Args:
        keep_float: Names of modules of the model.
        quantize: The type of the integers, or None.
        model: The model to quantise.

    Returns:
        The names of the convolutions and linear layers that are, or are inside, these modules.

    Raises:
        TypeError: If the names are not a sequence of strings.
        ValueError: If there are names without `quantize`, or if the model has no such module, or if the module has no
            layer that would be quantised.
    """
    if isinstance(keep_float, str) or not all(isinstance(name, str) for name in keep_float):
        raise TypeError(f"keep_float needs a list of names of modules, such as ['stem'], not {keep_float!r}.")
    if keep_float and quantize is None:
        raise ValueError("keep_float has an effect only with quantize='int8'; leave it out.")
    modules = dict(model.named_modules(remove_duplicate=False))
    layers = [
        name
        for name, module in modules.items()
        if isinstance(module, nn.Conv2d | nn.Linear) and name.startswith(('stem.', 'stages.'))
    ]
    for name in keep_float:
        if name not in modules:
            raise ValueError(f'keep_float: the model has no module {name!r}; model.named_modules() gives the names.')
        if not any(is_inside(layer, name) for layer in layers):
            raise ValueError(f'keep_float: the module {name!r} has no layer that would be quantised; leave it out.')
    return [layer for layer in layers if any(is_inside(layer, name) for name in keep_float)]


def named_parts(model: CoAtNet) -> dict[str, nn.Module]:
    """The parts of a model that are quantised, by name, in the order of their calls."""
    return {'stem': model.stem, **{f'stages.{i}': stage for i, stage in enumerate(model.stages)}}


@torch.no_grad()
def observed_parts(
    parts: Mapping[str, nn.Module], images: torch.Tensor, keep_float: Sequence[str] = ()
) -> Iterator[fx.GraphModule]:
    """Observe the activations of modules that are called one after the other.

    Args:
        parts: By name: modules in evaluation mode, on the CPU, in float32. Batch norms in them are replaced.
        images: Images for the first part.
        keep_float: Names of layers that stay in floating point.

    Yields:
        Graphs with observers, for any number of images of this size.
    """
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    # Without VNNI, sums of two products of 8 bits each overflow.
    vnni = torch.cpu._is_vnni_supported()
    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config(reduce_range=not vnni))
    x = images
    for name, part in parts.items():
        replace_norms(part)
        exported = torch.export.export(part, (x,), dynamic_shapes=({0: torch.export.Dim('batch')},))
        graph = prepare_pt2e(exported.module(), quantizer)
        leave_float(graph, [layer.removeprefix(f'{name}.') for layer in keep_float if is_inside(layer, name)])
        x = graph(x)
        yield graph


def quantize_parts(
    parts: Mapping[str, nn.Module], images: torch.Tensor, keep_float: Sequence[str] = ()
) -> list[nn.Module]:
    """Quantise modules, see `observed_parts`. The results must be compiled afterwards.

    Returns:
        Graphs that simulate integers until `torch.compile` with freezing turns them into integer operators.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    return [convert_pt2e(graph) for graph in observed_parts(parts, images, keep_float)]
