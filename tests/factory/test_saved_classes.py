"""config.json has the number of classes at its top level alone, where timm and transformers read the number."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

SMALL = dict(impl='timm', stem_width=(8, 16), embed_dim=(32, 32, 64, 64), depths=(1, 1, 1, 1), img_size=64)


def created(classes: int, folder: Path) -> nn.Module:
    return timm.create_model('coatnet_0', **SMALL, num_classes=classes)


def reset(classes: int, folder: Path) -> nn.Module:
    model = created(9, folder)
    model.reset_classifier(classes)
    return model


def loaded(classes: int, folder: Path) -> nn.Module:
    save_for_hf(created(9, folder), folder / 'first', safe_serialization=True)
    return timm.create_model(f'local-dir:{folder / "first"}', pretrained=True, num_classes=classes)


@pytest.mark.parametrize('classes', [0, 5])
@pytest.mark.parametrize('make', [created, reset, loaded])
@pytest.mark.parametrize('by_timm_alone', [False, True])
def test_classes_come_back(
    make: Callable[[int, Path], nn.Module], classes: int, by_timm_alone: bool, tmp_path: Path
) -> None:
    """Also from a config.json that has the number twice, as timm alone writes it."""
    model = make(classes, tmp_path).eval()
    save_for_hf(model, tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['num_classes'] == config['pretrained_cfg']['num_classes'] == classes
    assert 'num_classes' not in config['model_args']
    if by_timm_alone:
        config['model_args']['num_classes'] = classes
        (tmp_path / 'config.json').write_text(json.dumps(config))
    again = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    x = torch.rand(1, 3, 64, 64)
    assert again.num_classes == classes
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=1e-6)
    other = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, num_classes=7)
    assert other(x).shape == (1, 7)
