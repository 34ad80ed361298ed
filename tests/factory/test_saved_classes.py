"""config.json has the number of classes at its top level alone, where timm and transformers read the number."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from command_line import output_of
from paths import DATA
from timm.models import save_for_hf
from torch import nn

SMALL = dict(impl='timm', stem_width=(8, 16), embed_dim=(32, 32, 64, 64), depths=(1, 1, 1, 1), img_size=64)


def tuned(classes: int, folder: Path, **kwargs: object) -> nn.Module:
    model = timm.create_model('coatnet_0', **SMALL, num_classes=classes)
    save_for_hf(model, folder, safe_serialization=True, **kwargs)
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


def said_when_saving(classes: int, folder: Path) -> nn.Module:
    return tuned(classes, folder, model_args=dict(num_classes=classes))


def saved_by_an_older_version(classes: int, folder: Path) -> nn.Module:
    model = tuned(classes, folder)
    config = json.loads((folder / 'config.json').read_text())
    config['model_args']['num_classes'] = classes
    (folder / 'config.json').write_text(json.dumps(config))
    return model


@pytest.mark.parametrize('classes', [0, 5])
@pytest.mark.parametrize('save', [tuned, reset, loaded_and_saved_again, said_when_saving, saved_by_an_older_version])
def test_classes_come_back(save: Callable[[int, Path], nn.Module], classes: int, tmp_path: Path) -> None:
    model = save(classes, tmp_path).eval()
    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['num_classes'] == config['pretrained_cfg']['num_classes'] == classes
    assert ('num_classes' in config['model_args']) is (save is saved_by_an_older_version)
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    x = torch.rand(1, 3, 64, 64)
    assert loaded.num_classes == classes
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=1e-6)
    other = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, num_classes=7)
    assert other(x).shape == (1, 7)


def test_classes_of_a_conversion(tmp_path: Path) -> None:
    output_of('convert', DATA / 'chinhsuanwu_digits_64.pth', tmp_path / 'digits')
    config = json.loads((tmp_path / 'digits' / 'config.json').read_text())
    assert config['num_classes'] == 10 and 'num_classes' not in config['model_args']
    assert timm.create_model(f'local-dir:{tmp_path / "digits"}', pretrained=True).num_classes == 10


def test_the_models_of_timm_are_saved_as_before(tmp_path: Path) -> None:
    save_for_hf(timm.create_model('resnet10t', num_classes=5), tmp_path, safe_serialization=True)
    assert json.loads((tmp_path / 'config.json').read_text())['model_args']['num_classes'] == 5
