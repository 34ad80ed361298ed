"""A package of torch's AOTInductor: machine code for the processor of this machine."""

from pathlib import Path

import torch

from .task import RECORD, Format, Network, Task


def _write(task: Task, file: Path) -> None:
    torch._inductor.aoti_compile_and_package(
        task.program(), package_path=str(file), inductor_configs={'aot_inductor.metadata': {RECORD: task.record}}
    )


def _load(file: Path) -> Network:
    compiled = torch._inductor.aoti_load_package(str(file))
    return lambda images: compiled(torch.from_numpy(images)).numpy()


# With symbolic heights and widths, the compiler needs more than five minutes for the smallest network.
PT2 = Format('model.pt2', 'AOTInductor', None, (), _write, _load, has_int8=False, has_dynamic_size=False)
