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
from long_tests import slow
from paths import SCRIPTS, SUPPORT
from safetensors.torch import load_file, save_file

from coatnet_zoo import CoAtNet


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


@pytest.mark.parametrize('mode', ['plain', pytest.param('checkpointing', marks=slow)])
def test_two_processes_train_like_one(mode: str, tmp_path: Path) -> None:
    model = timm.create_model('coatnet_atto').train()
    save_file(model.state_dict(), tmp_path / 'initial.safetensors')
    batches = [(torch.randn(16, 1, 64, 64), torch.randint(10, (16,))) for _ in range(2)]
    torch.save(batches, tmp_path / 'batches.pt')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    result = subprocess.run(
        [*command, str(SUPPORT / 'fsdp_worker.py'), str(tmp_path), mode],
        env={**os.environ, 'PYTHONPATH': str(SCRIPTS), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=300,
    )
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


@pytest.mark.parametrize(
    'name, impl', [('coatnet_atto', 'paper'), ('coatnet_nano', 'timm'), ('coatnet_2', 'timm_rmlp')]
)
def test_weights_can_be_initialised_after_building_on_the_meta_device(name: str, impl: str) -> None:
    """Constants and spreads equal those of a model that was built as usual."""
    kwargs = dict(impl=impl, depths=(1, 1, 1, 1))
    usual = timm.create_model(name, **kwargs)
    model = timm.create_model(name, device='meta', **kwargs)
    assert isinstance(model, CoAtNet)
    model.to_empty(device='cpu')
    for tensor in model.state_dict().values():
        tensor.fill_(float('nan') if tensor.is_floating_point() else -1)
    model.init_weights()
    for key, tensor in usual.state_dict().items():
        other = model.state_dict()[key]
        if tensor.unique().numel() == 1:
            assert torch.equal(other, tensor), key
        else:
            assert not torch.equal(other, tensor)
            assert other.std() == pytest.approx(tensor.std().item(), rel=0.25 if tensor.numel() > 500 else 1), key
            assert other.mean().item() == pytest.approx(tensor.mean().item(), abs=0.3 * tensor.std().item()), key
