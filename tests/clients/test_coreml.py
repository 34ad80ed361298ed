"""Core ML: a program for Apple's devices, written anywhere; only they can run it."""

from pathlib import Path

import pytest
import torch
from clients import client, small

coremltools = client('coremltools')


@pytest.mark.parametrize('size', [(64, 64), (96, 64)], ids=['own size', 'another size'])
def test_program_is_written(size: tuple[int, int], tmp_path: Path) -> None:
    exported = torch.export.export(small('ours', stages='CT').eval(), (torch.randn(1, 3, *size),)).run_decompositions(
        {}
    )
    package = coremltools.convert(exported, minimum_deployment_target=coremltools.target.iOS17)
    package.save(tmp_path / 'm.mlpackage')
    assert (tmp_path / 'm.mlpackage/Manifest.json').is_file()
