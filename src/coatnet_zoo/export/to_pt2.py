"""A package of torch's AOTInductor: machine code for the processor of this machine."""

import io
from pathlib import Path

import torch

from .task import RECORD, Format, Task


def _write(task: Task, file: Path) -> None:
    package = io.BytesIO()  # on a full disk, torch's own writer would end the process
    configs = {'aot_inductor.metadata': {RECORD: task.record}}
    torch._inductor.aoti_compile_and_package(task.program(), package_path=package, inductor_configs=configs)
    file.write_bytes(package.getbuffer())


# With symbolic heights and widths, the compiler needs more than five minutes for the smallest network.
PT2 = Format('model.pt2', 'AOTInductor', None, (), _write, has_int8=False, has_dynamic_size=False)
