"""peft: LoRA is trained, saved, merged, and the merged network is optimised for inference."""

from pathlib import Path

import pytest
import torch
from clients import assert_same, client, images, learns, small
from timm.utils.model import freeze_batch_norm_2d

from coatnet_zoo import optimize_for_inference

peft = client('peft')
NO_LAYER = pytest.RaisesExc(ValueError, match='No modules were targeted')
LINEAR = ['qkv', 'proj', 'fc1', 'fc2']


def base(whose: str) -> torch.nn.Module:
    return freeze_batch_norm_2d(small(whose))  # peft does not save the statistics of the images


@pytest.mark.parametrize(
    'whose, targets, layers',
    [
        ('ours', 'all-linear', 12),
        pytest.param(
            "timm's", 'all-linear', 12,
            marks=pytest.mark.xfail(raises=NO_LAYER, reason="timm's blocks are of convolutions of 1x1", strict=True),
        ),
        ('ours', LINEAR, 16),
        ("timm's", LINEAR, 16),
    ],
    ids=str,
)  # fmt: skip
def test_lora(whose: str, targets: str | list[str], layers: int, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, target_modules=targets, modules_to_save=['head.fc'])
    model = peft.get_peft_model(base(whose), config)
    assert sum(key.endswith('lora_A.default.weight') for key in model.state_dict()) == layers
    x, y = images(3), torch.arange(3)
    before = model(x)
    learns(model, lambda: torch.nn.functional.cross_entropy(model(x), y))
    logits = model.eval()(x)
    assert not torch.allclose(logits, before, atol=1e-3)

    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(base(whose), tmp_path).eval()
    assert_same(loaded(x), logits)
    merged = loaded.merge_and_unload()
    assert_same(merged(x), logits)
    if whose == 'ours':
        assert_same(optimize_for_inference(merged)(x), logits)
