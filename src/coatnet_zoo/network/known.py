"""The modules inside blocks that are known to compute each image separately from the other images of a batch."""

from timm.layers import GELU, DropPath, LayerNorm2d, LayerScale2d, Mlp, Sigmoid, SqueezeExcite
from torch import nn

from .attention import Attention
from .attention_core import GlobalCore, LinearAttention, PostBiasAttention, SoftmaxAttention
from .exact import is_unchanged
from .expanded import ExpandedRelPos, TabledRelPos
from .fusion import BATCH_NORMS, BiasAct
from .layers import AvgPool2x2, Downsample, MaxPool2x2
from .packed import PackedConv2d, PackedLinear
from .rel_pos import NoRelPos, RelPosBias, RelPosMlp
from .windows import WindowCore

_OF_THE_NETWORK = (Downsample, Attention, AvgPool2x2, MaxPool2x2, RelPosBias, RelPosMlp, NoRelPos)
_OPTIMIZED = (BiasAct, ExpandedRelPos, TabledRelPos, PackedConv2d, PackedLinear)
_OF_ATTENTION = (GlobalCore, WindowCore, SoftmaxAttention, PostBiasAttention, LinearAttention)
_OF_TIMM = (DropPath, LayerNorm2d, LayerScale2d, Mlp, SqueezeExcite)
_OF_TORCH = (nn.Sequential, nn.Identity, nn.Dropout, nn.Conv2d, nn.Linear, nn.MaxPool2d)
_ACTIVATIONS = (nn.SiLU, nn.ReLU, nn.GELU, GELU, Sigmoid)
_KNOWN = frozenset((*_OF_THE_NETWORK, *_OPTIMIZED, *_OF_ATTENTION, *_OF_TIMM, *_OF_TORCH, *_ACTIVATIONS))


def is_known(module: nn.Module, *others: type[nn.Module]) -> bool:
    """Whether a module computes each image separately. `others` are further classes of which this is known."""
    kind = type(module)
    if kind in BATCH_NORMS:
        # Batch norms without statistics use the statistics of the batch.
        return module.running_mean is not None and is_unchanged(module)
    return (kind in _KNOWN or kind in others) and is_unchanged(module)
