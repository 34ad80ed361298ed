"""What every format is given to write: the network, an example of its images, and what is to be kept of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

# Names of the input and output of an exported network, and of the record in the metadata of its file.
IMAGES, LOGITS, RECORD = 'images', 'logits', 'coatnet_zoo'
Network = Callable[[np.ndarray], np.ndarray]  # (B, C, H, W) -> (B, num_classes), both float32


@dataclass(frozen=True)
class Task:
    """What is to be written.

    Attributes:
        network: Images (B, C, H, W) -> logits (B, num_classes), in evaluation mode, in float32, on the CPU.
        example: Images of a size that the exported network must take.
        dynamic: Names of the dimensions that may have any size, by their number.
        images: Prepared images (1, C, H, W) to calibrate 8-bit integers with; none for float32.
        record: Preprocessing and labels, as JSON, for the metadata.
    """

    network: nn.Module
    example: torch.Tensor
    dynamic: dict[int, str]
    images: list[np.ndarray]
    record: str

    def program(self) -> torch.export.ExportedProgram:
        """The network as a graph of torch."""
        shapes = dict.fromkeys(self.dynamic, torch.export.Dim.DYNAMIC)
        return torch.export.export(self.network, (self.example,), dynamic_shapes=(shapes,))


@dataclass(frozen=True)
class Format:
    """A format that models are exported to.

    Attributes:
        file: Name of the file that its runtime opens.
        runtime: What computes the file.
        extra: The extra of this package that installs what the format needs; None if torch alone does.
        modules: The modules of that extra.
        write: Writes a file, and others beside it if need be.
        load: Opens the file in its runtime.
        has_int8: Whether `write` quantises.
        has_dynamic_size: Whether the file can take images of any size.
    """

    file: str
    runtime: str
    extra: str | None
    modules: tuple[str, ...]
    write: Callable[[Task, Path], None]
    load: Callable[[Path], Network]
    has_int8: bool = True
    has_dynamic_size: bool = True
