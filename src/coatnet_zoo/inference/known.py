"""The parts of models that are known to compute each image separately from the other images of a batch.

Batches are cut into parts, and graphs are quantised, only if all modules are known.
"""

from torch import nn

from ..network import MBConv, PatchStem, Stage, Stem, TransformerBlock, is_known

_PARTS = (Stem, PatchStem, Stage, MBConv, TransformerBlock)


def unknown_module(part: nn.Module) -> str | None:
    """The name of the first unknown module in a part of a model, or None; '' is the part itself."""
    return next((name for name, module in part.named_modules() if not is_known(module, *_PARTS)), None)
