"""The initial weights of every implementation: one scheme for each codebase, one function for each kind of part.

PyTorch's layers draw their weights when they are created. The functions here replace the weights that a code draws in
another way. `registry.impls` names the scheme of an implementation; docs/implementations.md lists the distributions.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from timm.layers import SqueezeExcite
from torch import nn

from ..registry import IMPLS, CoAtNetCfg
from .rel_pos import RelPosBias


class InitialWeights(NamedTuple):
    """The functions of a scheme, by the part that they initialise."""

    conv: Callable[[nn.Module], None]  # a stem of convolutions, or an MBConv block
    transformer: Callable[[nn.Module], None]  # a stem of patches, or a Transformer block
    head: Callable[[nn.Module], None]  # the head, or a new classifier alone


def initial_weights(cfg: CoAtNetCfg) -> InitialWeights:
    """The scheme of `cfg.impl`, whatever the other options; timm's for an implementation that is not in the tables."""
    return _SCHEMES[IMPLS[cfg.impl].init if cfg.impl in IMPLS else 'timm']


def _layers(module: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def _zero_biases(module: nn.Module) -> None:
    for layer in _layers(module):
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _as_made(module: nn.Module) -> None:
    """PyTorch's defaults: weights and biases uniform within 1 / sqrt(fan-in)."""


def _fan_out_normal(module: nn.Module) -> None:
    """Convolutions as in EfficientNet: normal with variance 2 / fan-out, and biases 0."""
    for layer in _layers(module):
        fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
        nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan_out))
    _zero_biases(module)


def _xavier_uniform(module: nn.Module) -> None:
    """Linear layers and projections as in ViT, and Keras' default: Xavier uniform, and biases 0.

    A convolution of patches counts as a linear layer of their pixels.
    """
    for layer in _layers(module):
        fan_out, *inputs = layer.weight.shape
        bound = math.sqrt(3.0) * math.sqrt(2.0 / (math.prod(inputs) + fan_out))
        nn.init.uniform_(layer.weight, -bound, bound)
    _zero_biases(module)


def _zero_positions(module: nn.Module) -> None:
    """Position tables 0, everything else as made."""
    for m in module.modules():
        if isinstance(m, RelPosBias):
            nn.init.zeros_(m.relative_position_bias_table)


def _keras_cv(module: nn.Module) -> None:
    """A block of keras_cv_attention_models, which uses PyTorch's defaults in most layers.

    Squeeze-excite and the projection after attention have Keras' default. The fan-in of a depthwise convolution counts
    all channels. Biases and position tables are 0.
    """
    for name, m in module.named_modules():
        if isinstance(m, SqueezeExcite) or name.endswith('attn.proj'):
            _xavier_uniform(m)
        elif isinstance(m, nn.Conv2d) and m.groups > 1:
            bound = (math.prod(m.kernel_size) * m.in_channels) ** -0.5
            nn.init.uniform_(m.weight, -bound, bound)
    _zero_biases(module)
    _zero_positions(module)


_SCHEMES = {
    'timm': InitialWeights(_fan_out_normal, _xavier_uniform, _as_made),
    'torch': InitialWeights(_as_made, _zero_positions, _as_made),
    'keras_cv': InitialWeights(_keras_cv, _keras_cv, _xavier_uniform),
}
