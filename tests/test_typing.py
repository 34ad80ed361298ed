"""The public names have types: mypy accepts a user's script in its strict mode, and sees its mistakes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

SCRIPT = """
import coatnet_zoo, torch
from PIL import Image

cfg = coatnet_zoo.resolve_cfg('coatnet_1', coatnet_zoo.list_impls('coatnet_1')[0], rel_attn='post')
model = coatnet_zoo.CoAtNet(cfg, img_size=64, num_classes=5)
features: torch.Tensor = model.forward_features(torch.rand(1, 3, 96, 96))
fast = coatnet_zoo.optimize_for_inference(model, dtype=torch.bfloat16)
try:
    parameters: int = coatnet_zoo.convert_checkpoint('best.pth', 'folder', labels=['cat', 'dog']).num_params
except (coatnet_zoo.CheckpointError, coatnet_zoo.HubError) as e:
    print(e, coatnet_zoo.__version__)
explanation = coatnet_zoo.explain_image(Image.open('image.png'), model)
probability: float = explanation.top[0].probability
coatnet_zoo.draw_explanation(explanation, coatnet_zoo.export_model(model, 'out', 'onnx').file.name)
coatnet_zoo.list_impls(1)
coatnet_zoo.resolve_cfg('coatnet_1', 'paper').no_such_field
"""


def test_mypy_on_a_script(tmp_path: Path) -> None:
    assert (ROOT / 'src' / 'coatnet_zoo' / 'py.typed').is_file()
    pytest.importorskip('mypy')
    (tmp_path / 'script.py').write_text(SCRIPT)
    command = [sys.executable, '-m', 'mypy', '--strict', '--follow-imports', 'silent', 'script.py']
    env = {**os.environ, 'MYPYPATH': str(ROOT / 'src')}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    found = [line.partition(': ')[0] for line in done.stdout.splitlines()[:-1]]
    assert found == ['script.py:16', 'script.py:17'], done.stdout + done.stderr
