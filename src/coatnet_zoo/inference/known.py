"""The modules that are known to compute each image separately from the other images of a batch.

Batches are cut into parts, and graphs are quantised, only if all modules are in this list.
"""

from timm.layers import GELU, DropPath, LayerNorm2d, LayerScale2d, Mlp, Sigmoid, SqueezeExcite
from torch import nn

from ..network import (
    BATCH_NORMS,
    Attention,
    AvgPool2x2,
    Downsample,
    GlobalCore,
    LinearAttention,
    MaxPool2x2,
    MBConv,
    NoRelPos,
    PatchStem,
    PostBiasAttention,
    RelPosBias,
    RelPosMlp,
    SoftmaxAttention,
    Stage,
    Stem,
    TransformerBlock,
    WindowCore,
    is_exactly,
)

_OF_THE_NETWORK = (Stem, PatchStem, Stage, MBConv, TransformerBlock, Downsample, Attention, AvgPool2x2, MaxPool2x2)
_OF_ATTENTION = (GlobalCore, WindowCore, SoftmaxAttention, PostBiasAttention, LinearAttention)
_OF_POSITIONS = (RelPosBias, RelPosMlp, NoRelPos)
_OF_TIMM = (DropPath, LayerNorm2d, LayerScale2d, Mlp, SqueezeExcite)
_OF_TORCH = (nn.Sequential, nn.Identity, nn.Dropout, nn.Conv2d, nn.Linear, nn.MaxPool2d)
_ACTIVATIONS = (nn.SiLU, nn.ReLU, nn.GELU, GELU, Sigmoid)
_KNOWN = (
    *_OF_THE_NETWORK,
    *_OF_ATTENTION,
    *_OF_POSITIONS,
    *_OF_TIMM,
    *_OF_TORCH,
    *_ACTIVATIONS,
)


def _is_known(module: nn.Module) -> bool:
    # Batch norms without statistics use the statistics of the batch.
    return is_exactly(module, *_KNOWN) or (is_exactly(module, *BATCH_NORMS) and module.running_mean is not None)


def unknown_module(part: nn.Module) -> str | None:
    """The name of the first unknown module in a part of a model, or None; '' is the part itself."""
    return next((name for name, module in part.named_modules() if not _is_known(module)), None)
