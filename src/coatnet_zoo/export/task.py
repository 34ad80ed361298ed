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
    """The input of a format.

    Attributes:
        network: Images (B, C, H, W) -> logits (B, num_classes), in evaluation mode, in float32, on the CPU.
        example: Images of a size that the exported network must take.
        dynamic: Names of the dimensions that may have any size, by the number of the dimension.
        images: Prepared images (1, C, H, W) for the calibration of 8-bit integers; empty for float32.
        record: Preprocessing and labels, as JSON, for the metadata.
    """

    network: nn.Module
    example: torch.Tensor
    dynamic: dict[int, str]
    images: list[np.ndarray]
    record: str

    def program(self) -> torch.export.ExportedProgram:
        """Export the network as a graph of torch."""
        shapes = dict.fromkeys(self.dynamic, torch.export.Dim.DYNAMIC)
        return torch.export.export(self.network, (self.example,), dynamic_shapes=(shapes,))


@dataclass(frozen=True)
class Format:
    """A format of exported models.

    Attributes:
        file: Name of the file that the runtime opens.
        runtime: Name of the runtime that computes the file.
        extra: The extra of this package that installs the modules of the format; None if torch is enough.
        modules: The modules of the extra.
        write: Function that writes the file, and other files next to it if necessary.
        has_int8: Whether `write` quantises.
        has_dynamic_size: Whether the file can take images of any size.
    """

    file: str
    runtime: str
    extra: str | None
    modules: tuple[str, ...]
    write: Callable[[Task, Path], None]
    has_int8: bool = True
    has_dynamic_size: bool = True
