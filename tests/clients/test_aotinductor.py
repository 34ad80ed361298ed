"""AOTInductor: a package of machine code, made without gradients as PyTorch asks, loaded without Python's model."""

import shutil
from pathlib import Path

import pytest
import torch
from clients import assert_same, images, small, whose

pytestmark = pytest.mark.skipif(not shutil.which('g++'), reason='AOTInductor needs a C++ compiler, g++')


@whose()
def test_package(whose: str, tmp_path: Path) -> None:
    model, x = small(whose, stages='CT').eval(), images()
    with torch.no_grad():
        exported = torch.export.export(model, (x,))
        file = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / 'm.pt2'))
    assert_same(torch._inductor.aoti_load_package(file)(x), model(x).detach())
