"""Recognising the registered network that a checkpoint of this package or of timm belongs to, by names and shapes."""

import hashlib
from collections.abc import Mapping

import torch

from ..tables import FINGERPRINTS

_TABLE = 'relative_position_bias_table'


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """A hash of the names and shapes that make a network, 16 hexadecimal digits.

    Classes, channels and the input size do not count, nor whether a 1x1 convolution is a linear layer, as here.

    Args:
        tensors: Tensors by name, without wrapper prefixes; on any device.
    """
    body = sorted(
        f'{name} {tuple(t.shape[:2] if t.ndim == 4 and t.shape[2:] == (1, 1) else t.shape)}'
        for name, t in tensors.items()
        if not name.startswith('head.fc.') and name != 'stem.conv1.weight' and not name.endswith(_TABLE)
    )
    return hashlib.sha256('\n'.join(body).encode()).hexdigest()[:16]


def identify(tensors: Mapping[str, torch.Tensor]) -> tuple[str, str] | None:
    """The registered name and the implementation that a checkpoint belongs to, or None.

    Args:
        tensors: Tensors by name, without wrapper prefixes.
    """
    return next(iter(FINGERPRINTS.get(fingerprint(tensors), ())), None)
