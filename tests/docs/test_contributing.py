"""Takes the examples of CONTRIBUTING and uses them: a size, weights and third-party code need nothing else."""

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from command_line import output_of
from pages import blocks
from paths import DATA

from coatnet_zoo import CoAtNet, resolve_cfg
from coatnet_zoo.convert import read_checkpoint
from coatnet_zoo.registry import IMPLS, SIZES, WEIGHTS, choose, weights_cfg
from scripts.counting import num_params

SIZE, WEIGHTS_ROW, FILE, IMPL = (block.code for block in blocks('CONTRIBUTING.md') if block.language == 'python')


def add(monkeypatch: pytest.MonkeyPatch, table: dict[str, Any], module: str, text: str) -> str:
    """Add a row in the form that a module of `registry` has, and return the name of the row."""
    ((name, row),) = eval(f'{{{text}}}', vars(importlib.import_module(f'coatnet_zoo.registry.{module}'))).items()
    monkeypatch.setitem(table, name, row)
    return name


def test_a_size_and_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    size = add(monkeypatch, SIZES, 'sizes', SIZE)
    assert num_params(CoAtNet(resolve_cfg(size, 'paper'), device='meta')) < 5e6
    name = add(monkeypatch, WEIGHTS, 'weights', WEIGHTS_ROW)
    assert name == f'{size}.{choose(size, pretrained=True)[1]}'
    assert (weights_cfg(name)['hf_hub_id'], weights_cfg(name)['license']) == ('me/coatnet_pico.me_in1k', 'mit')


@torch.inference_mode()
def test_a_third_party_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    impl = add(monkeypatch, IMPLS, 'impls', IMPL)
    module = types.ModuleType(IMPLS[impl].code.mapping)
    module.__package__ = 'coatnet_zoo.convert.adapters'
    exec(FILE, vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)

    theirs = read_checkpoint(DATA / 'chinhsuanwu_digits_64.pth').tensors
    theirs = {name.replace('.', '/'): tensor for name, tensor in theirs.items()}
    bias = torch.randn(10)
    torch.save({**theirs, 'fc/bias': bias}, tmp_path / 'best.pth')
    output_of('convert', tmp_path / 'best.pth', tmp_path / 'out')
    model = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).eval()
    expected = torch.load(DATA / 'chinhsuanwu_digits_64_expected.pt', weights_only=True)
    torch.testing.assert_close(model(expected['x']), expected['logits'] + bias, rtol=0, atol=1e-4)
