"""ExecuTorch: a program with the kernels of XNNPACK, run by the runtime of phones."""

from pathlib import Path

import pytest
import torch
from clients import assert_same, client, images, small, whose

client('executorch.runtime')
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # noqa: E402
from executorch.exir import to_edge_transform_and_lower  # noqa: E402
from executorch.runtime import Runtime  # noqa: E402


def assert_runs(model: torch.nn.Module, x: torch.Tensor, file: Path) -> None:
    """Write a program for these images, and compare its logits."""
    program = to_edge_transform_and_lower(torch.export.export(model, (x,)), partitioner=[XnnpackPartitioner()])
    file.write_bytes(program.to_executorch().buffer)
    method = Runtime.get().load_program(file).load_method('forward')
    assert_same(method.execute([x])[0], model(x).detach())


@whose()
def test_program(whose: str, tmp_path: Path) -> None:
    assert_runs(small(whose, stages='CT').eval(), images(1), tmp_path / 'm.pte')


@pytest.mark.parametrize('size', [(96, 64), (160, 224)])
def test_program_of_another_size(size: tuple[int, int], tmp_path: Path) -> None:
    assert_runs(small('ours', stages='CT').eval(), torch.randn(1, 3, *size), tmp_path / 'm.pte')
