"""A part of a model as machine code of torch's AOTInductor: compiling, and calling the code."""

from pathlib import Path

import torch
import torch._inductor.config
from torch import nn

from .machine_code import MachineCode, take_library


def write_package(part: nn.Module, images: torch.Tensor, file: Path) -> Path:
    """Compile a module for the processor of this machine, with its weights as constants.

    Args:
        part: (B, C, H, W) -> (B, C', H', W'), on the CPU.
        images: An input, with channels last, of more than one image; torch.export treats a dimension of 1 as a
            constant. The machine code takes any number of images of this size.
        file: The package to write, `*.pt2`.

    Returns:
        The file with the code, see `take_library`.
    """
    # Without dynamic threads, the code computes with the number of threads that the compiling process has.
    settings = torch._inductor.config.patch({'freezing': True, 'cpp.dynamic_threads': True})
    with torch.no_grad(), settings:
        program = torch.export.export(part, (images,), dynamic_shapes=({0: torch.export.Dim('batch', min=1)},))
        torch._inductor.aoti_compile_and_package(program, package_path=str(file))
    return take_library(file)


class Package(nn.Module):
    """A part of a model as machine code.

    Args:
        file: A file of `write_package`. The code in the file is executed.
        shape: (C, H, W) of the inputs.
        dtype: The precision of the inputs.

    Raises:
        RuntimeError: If the code does not start.
        OSError: If the code cannot be read.
    """

    def __init__(self, file: Path, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        super().__init__()
        self.file, self.shape, self.dtype = file, shape, dtype
        self.code = MachineCode(file)

    def __reduce__(self) -> tuple[type['Package'], tuple[Path, tuple[int, int, int], torch.dtype]]:
        # Machine code cannot be copied or pickled; copies load the file again.
        return Package, (self.file, self.shape, self.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Call the code: (B, C, H, W) -> (B, C', H', W')."""
        # The code reads memory at the places that it was compiled for, whatever the tensor is.
        if tuple(x.shape[1:]) != self.shape or x.dtype != self.dtype or x.device.type != 'cpu':
            expected, got = f'{self.dtype} of (B, *{self.shape})', f'{x.dtype} of {tuple(x.shape)} on {x.device}'
            raise ValueError(f'{self.file.name} takes tensors of {expected} on the CPU, got {got}.')
        return self.code(x.contiguous(memory_format=torch.channels_last))
