"""FSDP2 on two processes computes the same as one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from paths import SCRIPTS, SUPPORT
from safetensors.torch import load_file, save_file


def reference(model: torch.nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[float]:
    """Train in this process, half a batch after the other, because batch norm sees the images of one process only."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for images, targets in batches:
        halves = zip(images.chunk(2), targets.chunk(2), strict=True)
        loss = torch.stack([F.cross_entropy(model(x), y) for x, y in halves]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """The processes recompute activations (`set_grad_checkpointing`), as scripts/train_fsdp.py does."""
    model = timm.create_model('coatnet_atto').train()
    save_file(model.state_dict(), tmp_path / 'initial.safetensors')
    batches = [(torch.randn(16, 1, 64, 64), torch.randint(10, (16,))) for _ in range(2)]
    torch.save(batches, tmp_path / 'batches.pt')
    command = [sys.executable, SUPPORT / 'fsdp_worker.py', tmp_path]
    environment = {**os.environ, 'PYTHONPATH': str(SCRIPTS), 'OMP_NUM_THREADS': '1'}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    ours = json.loads((tmp_path / 'result.json').read_text())
    expected = reference(model, batches)
    assert expected[0] != pytest.approx(expected[1], rel=1e-3)
    assert ours['losses'] == pytest.approx(expected, rel=1e-5)
    assert ours['local'] < 0.6 * sum(p.numel() for p in model.parameters())

    trained = load_file(tmp_path / 'trained' / 'model.safetensors')
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(trained[name], parameter, rtol=0, atol=1e-5)
    reloaded = timm.create_model(f'local-dir:{tmp_path / "trained"}', pretrained=True)
    assert reloaded.state_dict().keys() == trained.keys()
