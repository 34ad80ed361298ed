"""docs/export.md: every block is run as it is printed, in a folder and a process of its own."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pages
import pytest
from paths import DATA

BLOCKS = pages.blocks('docs/export.md')  # a command and a program for every format
# Says so if a program that is to run without the package has loaded it after all.
STRANGERS = "\nimport sys; print(sorted({'torch', 'timm', 'coatnet_zoo'} & set(sys.modules)))"


def run(folder: Path, *args: str) -> str:
    done = subprocess.run([sys.executable, *args], cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_block_is_tried() -> None:
    assert [block.language for block in BLOCKS] == ['sh', 'python'] * 3
    assert [re.search(r'--format (\w+)', block.code)[1] for block in BLOCKS[::2]] == ['onnx', 'openvino', 'pt2']
    assert all(len(block.code.splitlines()) <= 14 for block in BLOCKS)


@pytest.mark.parametrize('block, module', [(0, 'onnxruntime'), (2, 'openvino')])
def test_the_blocks_of_a_runtime(block: int, module: str, tmp_path: Path) -> None:
    """tests/clients has the blocks of AOTInductor, whose compiler takes longer than all tests of this folder."""
    pytest.importorskip(module, reason='needs the extra of this format')
    command, program = BLOCKS[block : block + 2]
    output = pages.run(command, tmp_path)
    assert float(re.search(r'difference of a logit from torch is (\S+),', output)[1]) < 1e-4
    shutil.copy(DATA / 'digits' / '7_row1496.png', tmp_path / 'image.png')
    assert run(tmp_path, '-c', program.code + STRANGERS).splitlines() == ['7', '[]']
