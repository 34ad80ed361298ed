"""The content of a checkpoint file, from any code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        tensors: Tensors by name, without wrapper prefixes such as `module.`.
        layers: Class and settings of every layer by name, if the file describes its layers.
    """

    tensors: Mapping[str, torch.Tensor]
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
