"""AOTInductor: a package of machine code, made without gradients as PyTorch asks, loaded without Python's model."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from clients import assert_same, images, small, whose
from pages import blocks, run
from paths import DATA

pytestmark = pytest.mark.skipif(not shutil.which('g++'), reason='AOTInductor needs a C++ compiler, g++')


@whose()
def test_package(whose: str, tmp_path: Path) -> None:
    model, x = small(whose, stages='CT').eval(), images()
    with torch.no_grad():
        exported = torch.export.export(model, (x,))
        file = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / 'm.pt2'))
    assert_same(torch._inductor.aoti_load_package(file)(x), model(x).detach())


def test_the_blocks_of_the_page(tmp_path: Path) -> None:
    shutil.copy(DATA / 'digits' / '7_row1496.png', tmp_path / 'image.png')
    command, program = blocks('docs/export.md')[-2:]
    assert '--format pt2' in command.code
    output = run(command, tmp_path)
    assert float(re.search(r'difference of a logit from torch is (\S+),', output)[1]) < 1e-4
    assert run(program, tmp_path).splitlines()[-1] == '7'
