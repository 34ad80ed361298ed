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


def tuned(classes: int, folder: Path) -> nn.Module:
    model = timm.create_model('coatnet_0', **SMALL, num_classes=classes)
    save_for_hf(model, folder, safe_serialization=True)
    return model


def reset(classes: int, folder: Path) -> nn.Module:
    model = timm.create_model('coatnet_0', **SMALL, num_classes=9)
    model.reset_classifier(classes)
    save_for_hf(model, folder, safe_serialization=True)
    return model


def loaded_and_saved_again(classes: int, folder: Path) -> nn.Module:
    tuned(9, folder / 'first')
    model = timm.create_model(f'local-dir:{folder / "first"}', pretrained=True, num_classes=classes)
    save_for_hf(model, folder, safe_serialization=True)
    return model


def saved_by_timm_alone(classes: int, folder: Path) -> nn.Module:
    model = tuned(classes, folder)
    config = json.loads((folder / 'config.json').read_text())
    config['model_args']['num_classes'] = classes
    (folder / 'config.json').write_text(json.dumps(config))
    return model


@pytest.mark.parametrize('classes', [0, 5])
@pytest.mark.parametrize('save', [tuned, reset, loaded_and_saved_again, saved_by_timm_alone])
def test_classes_come_back(save: Callable[[int, Path], nn.Module], classes: int, tmp_path: Path) -> None:
    model = save(classes, tmp_path).eval()
    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['num_classes'] == config['pretrained_cfg']['num_classes'] == classes
    assert ('num_classes' in config['model_args']) is (save is saved_by_timm_alone)
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    x = torch.rand(1, 3, 64, 64)
    assert loaded.num_classes == classes
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=1e-6)
    other = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, num_classes=7)
    assert other(x).shape == (1, 7)
