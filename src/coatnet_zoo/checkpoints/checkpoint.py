"""What a checkpoint file holds, whoever wrote it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        tensors: Tensors by name, without wrapper prefixes such as `module.`.
        layers: Class and settings of every layer by name, where the file describes its layers.
    """

    tensors: Mapping[str, torch.Tensor]
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
