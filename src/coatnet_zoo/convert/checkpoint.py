"""The content of a checkpoint file, from any code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        tensors: Tensors of the network by name, without wrapper prefixes such as `module.`.
        layers: Class and settings of every layer by name, if the file describes its layers.
        beside: The tensors that the file has beside the network, by name.
        record: The arguments of timm's train.py by name, if that script wrote the file.
    """

    tensors: Mapping[str, torch.Tensor]
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    beside: Mapping[str, torch.Tensor] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
