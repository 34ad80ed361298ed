"""torchao: weights of 8 bits, and a file of them."""

from pathlib import Path

import pytest
import torch
from clients import assert_same, client, images, small

torchao = client('torchao.quantization')


@pytest.mark.parametrize('whose, layers', [('ours', 13), ("timm's", 1)])
def test_weight_only_int8(whose: str, layers: int, tmp_path: Path) -> None:
    model, x = small(whose).eval(), images()
    before = model(x)
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    assert sum(type(p).__name__ == 'Int8Tensor' for p in model.parameters()) == layers
    assert_same(model(x), before, abs=0.02 * before.abs().max().item())
    torch.save(model.state_dict(), tmp_path / 'int8.pt')
    again = small(whose).eval()
    again.load_state_dict(torch.load(tmp_path / 'int8.pt'), assign=True)
    assert_same(again(x), model(x))
