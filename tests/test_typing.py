"""The public names have types: mypy accepts a user's script in its strict mode, and sees its mistakes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

SCRIPT = """
import torch
from PIL import Image

import coatnet_zoo

version: str = coatnet_zoo.__version__
impls: list[str] = coatnet_zoo.list_impls('coatnet_1')
cfg = coatnet_zoo.resolve_cfg('coatnet_1', impls[0], rel_attn='post')
model = coatnet_zoo.CoAtNet(cfg, img_size=64, num_classes=5)
model.set_input_size((96, 96))
features: torch.Tensor = model.forward_features(torch.rand(1, 3, 96, 96))
fast = coatnet_zoo.optimize_for_inference(model, dtype=torch.bfloat16)
try:
    conversion = coatnet_zoo.convert_checkpoint('best.pth', 'folder', mean=(0.5, 0.5, 0.5), labels=['cat', 'dog'])
    parameters: int = conversion.num_params
except (coatnet_zoo.CheckpointError, coatnet_zoo.HubError) as e:
    print(e)
explanation = coatnet_zoo.explain_image(Image.open('image.png'), model)
probability: float = explanation.top[0].probability
coatnet_zoo.draw_explanation(explanation, 'title')
print(coatnet_zoo.export_model(model, 'out', 'onnx').file.name)
"""
MISTAKES = """
import coatnet_zoo

coatnet_zoo.list_impls(1)
coatnet_zoo.resolve_cfg('coatnet_1', 'paper').no_such_field
coatnet_zoo.convert_checkpoint('best.pth')
"""


def test_the_wheel_says_that_it_has_types() -> None:
    assert (ROOT / 'src' / 'coatnet_zoo' / 'py.typed').is_file()


def test_mypy_on_a_script(tmp_path: Path) -> None:
    pytest.importorskip('mypy')
    (tmp_path / 'script.py').write_text(SCRIPT)
    (tmp_path / 'mistakes.py').write_text(MISTAKES)
    done = subprocess.run(
        [sys.executable, '-m', 'mypy', '--strict', '--follow-imports', 'silent', 'script.py', 'mistakes.py'],
        cwd=tmp_path, env={**os.environ, 'MYPYPATH': str(ROOT / 'src')}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    found = [line.partition(': ')[0] for line in done.stdout.splitlines()[:-1]]
    assert found == ['mistakes.py:4', 'mistakes.py:5', 'mistakes.py:6'], done.stdout + done.stderr
