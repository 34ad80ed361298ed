"""Which modules of a model lose most by quantisation: each module is quantised alone, and the logits are compared."""

from typing import NamedTuple

import torch
from torch import nn

from ..network import CoAtNet
from ..slow import say_if_slow
from .graphs import RoundedGraph, is_inside
from .optimize import fold
from .optimized import check_model
from .quantize import check_calibration, named_parts, observed_parts


class QuantizedAlone(NamedTuple):
    """A module, and what its quantisation alone changes.

    Attributes:
        name: The name of the module, as `model.named_modules()` gives it.
        difference: The largest difference of the logits, divided by the largest logit.
    """

    name: str
    difference: float


def quantization_report(model: CoAtNet, calibration: torch.Tensor) -> list[QuantizedAlone]:
    """Quantise every block and every layer of a model alone, and compare the logits with those of the model.

    The integers are simulated in floating point, with the scales of `optimize_for_inference(quantize='int8')`.

    Args:
        model: A CoAtNet in float32, on the CPU.
        calibration: Images (B, in_chans, H, W), prepared like the later images. The ranges of values are taken from
            these images, and the logits of these images are compared. The time grows with their number.

    Returns:
        The stem, the blocks, and each convolution and linear layer inside these, with the largest difference first.
        `keep_float=[row.name for row in report[:3]]` leaves the first three in float32.

    Raises:
        TypeError: If the model is not a CoAtNet, wraps a CoAtNet, or is optimised.
        ValueError: If the model cannot be quantised, or if images are missing or have another shape.
        ImportError: If torchao is not installed.
    """
    check_model(model)
    images = check_calibration('int8', calibration, model, None)
    with say_if_slow('Quantising the modules of the model one by one'), torch.no_grad():
        folded, _ = fold(model, torch.float32, compile=True)
        rows = _rows(folded, images, {name for name, _ in model.named_modules(remove_duplicate=False)})
    return sorted(rows, key=lambda row: -row.difference)


def _rows(model: CoAtNet, images: torch.Tensor, names: set[str]) -> list[QuantizedAlone]:
    """Compute the rows of the report.

    Args:
        model: A model with folded norms.
        images: Images for the calibration and the comparison.
        names: Names of the modules that a user knows. Folding makes new modules.
    """
    parts = named_parts(model)
    graphs = observed_parts(parts, images)
    rest = [*parts.values(), model.norm, model.head]
    logits = nn.Sequential(*rest)(images)
    x, rows = images, []
    for (part_name, part), graph in zip(parts.items(), graphs, strict=True):
        rounded, rest = RoundedGraph(graph), rest[1:]
        blocks = [''] if part is model.stem else [f'blocks.{i}' for i in range(len(part.blocks))]
        groups = {}
        for module in (*blocks, *rounded.layers):
            name = '.'.join(filter(None, (part_name, module)))
            layers = {layer for layer in rounded.layers if is_inside(layer, module)}
            if layers and name in names:
                groups[name] = layers
        for name, y in rounded.each_alone(x, groups):
            difference = (nn.Sequential(*rest)(y) - logits).abs().max() / logits.abs().max()
            rows.append(QuantizedAlone(name, difference.item()))
        x = part(x)
    return rows
