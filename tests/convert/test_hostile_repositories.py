"""Folders and repositories made to be believed: only the safetensors file beside a config.json is ever loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from hub_server import HubServer

from coatnet_zoo import CheckpointError, HubError

SAFE = 'model.safetensors'


@pytest.fixture(params=['local-dir', 'hf-hub'])
def load(request: pytest.FixtureRequest, tmp_path: Path, hub: HubServer, fresh_cache: Path) -> Callable:
    """Changes a sound folder by a function of the folder and its config.json, and loads it."""
    folder = tmp_path / 'folder'
    timm.models.save_for_hf(timm.create_model('coatnet_atto', num_classes=3), folder, safe_serialization=True)

    def load(change: Callable[[Path, dict[str, Any]], Any]) -> torch.nn.Module:
        change(folder, config := json.loads((folder / 'config.json').read_text()))
        (folder / 'config.json').write_text(json.dumps(config))
        if request.param == 'local-dir':
            return timm.create_model(f'local-dir:{folder}', pretrained=True)
        hub.add_repo('someone/else', {SAFE: b''})
        hub.add_repo('someone/evil', folder)
        return timm.create_model('hf-hub:someone/evil', pretrained=True, cache_dir=fresh_cache)

    return load


REFUSED: dict[str, Callable[[Path, dict[str, Any]], Any]] = {
    'weights that are a pickle': lambda folder, config: torch.save({}, folder / SAFE),
    'a pickle instead of the weights': lambda folder, config: (folder / SAFE).rename(folder / 'pytorch_model.bin'),
    'code for an argument': lambda folder, config: config['model_args'].update(act_layer="__import__('os')"),
    'a path among the arguments': lambda folder, config: config['model_args'].update(checkpoint_path='/etc/passwd'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_refused(case: str, load: Callable, hub: HubServer) -> None:
    with pytest.raises((CheckpointError, HubError)) as caught:
        load(REFUSED[case])
    assert '\n' not in str(caught.value) and hub.filenames <= {'config.json', SAFE}


@pytest.mark.parametrize(
    'values',
    [
        dict(file='/etc/passwd', url='http://127.0.0.1:1/evil.pth', custom_load='hf', source='url'),
        dict(state_dict={'stem.conv1.weight': [1]}),
        dict(hf_hub_id='someone/else'),
    ],
)
def test_other_places_are_not_followed(values: dict, load: Callable, hub: HubServer, tmp_path: Path) -> None:
    loaded = load(lambda folder, config: config['pretrained_cfg'].update(values)).state_dict()
    expected = safetensors.torch.load_file(tmp_path / 'folder' / SAFE)
    assert all(torch.equal(loaded[k], v) for k, v in expected.items())
    assert not any('someone/else' in path for _, path in hub.requests)
