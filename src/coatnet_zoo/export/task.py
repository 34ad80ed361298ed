"""The input of every format: the network, example images, the dynamic dimensions and the metadata."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

# Names of the input and output of an exported network, and of the record in the metadata of its file.
IMAGES, LOGITS, RECORD = 'images', 'logits', 'coatnet_zoo'


@dataclass(frozen=True)
class Task:
    """The input of a format."""

    network: nn.Module  # images (B, C, H, W) -> logits (B, num_classes), in evaluation mode, in float32, on the CPU
    example: torch.Tensor  # images of a size that the exported network must take
    dynamic: dict[int, str]  # names of the dimensions that may have any size, by the number of the dimension
    images: list[np.ndarray]  # prepared, (1, C, H, W), for the calibration of 8-bit integers; empty for float32
    record: str  # preprocessing and labels, as JSON, for the metadata

    def program(self) -> torch.export.ExportedProgram:
        """Export the network as a graph of torch."""
        shapes = dict.fromkeys(self.dynamic, torch.export.Dim.DYNAMIC)
        return torch.export.export(self.network, (self.example,), dynamic_shapes=(shapes,))


@dataclass(frozen=True)
class Format:
    """A format of exported models."""

    file: str  # name of the file that the runtime opens
    runtime: str  # name of the runtime that computes the file
    extra: str | None  # the extra of this package that installs the modules of the format; None if torch is enough
    modules: tuple[str, ...]  # of the extra
    write: Callable[[Task, Path], None]  # writes the file, and other files next to it if necessary
    has_int8: bool = True  # whether `write` quantises
    has_dynamic_size: bool = True  # whether the file can take images of any size
