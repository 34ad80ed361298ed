"""`pull` and `verify`: all published weights, several names of which one fails, and folders without a network."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from command_line import command, output_of, refusal
from hub_server import Fault, HubServer
from huggingface_hub import constants
from paths import DATA
from peers import assert_close, random_images, timm_peer

from coatnet_zoo.hub import fetch, local_file
from coatnet_zoo.registry import WEIGHTS

SAFE = 'model.safetensors'
RMLP = 'coatnet_nano.rmlp_sw_in1k'
RELEASED = [name for name, weights in WEIGHTS.items() if weights.release]
H5 = (DATA / 'keras_cv_small_weights_only.h5').read_bytes()


@pytest.fixture(autouse=True)
def served(hub: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The Hub with something under every name, the release host with a small network; and an empty cache."""
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(fresh_cache))
    monkeypatch.setattr(constants, 'HF_HOME', str(fresh_cache))
    monkeypatch.setattr(fetch, 'RELEASE_HOST', hub.url)
    for name, weights in WEIGHTS.items():
        if weights.hf_hub_id:
            hub.add_repo(weights.hf_hub_id, {SAFE: name.encode() * 1000})
        elif weights.release:
            monkeypatch.setitem(WEIGHTS, name, dataclasses.replace(weights, md5=hashlib.md5(H5).hexdigest()))
            hub.other_files[f'/{weights.release}'] = H5
    return hub


def test_all_weights(served: HubServer) -> None:
    assert output_of('pull', '--all').count('\n') == len(WEIGHTS)
    assert all(entry['cached'] for entry in json.loads(output_of('list', '--json', '--pretrained')))
    served.stop()
    text = output_of('verify', *WEIGHTS)
    assert text.count('matches the declared hash') == len(WEIGHTS) - 1 and 'coatnet_atto.digits: bundled' in text
    damaged = local_file('coatnet_1.sw_in1k').resolve()
    damaged.write_bytes(damaged.read_bytes()[:-1] + b'?')
    local_file(RELEASED[0]).write_bytes(b'damaged')
    local_file('coatnet_2.sw_in12k').unlink()
    result = command('verify', 'coatnet_0', 'coatnet_1', RELEASED[0], 'coatnet_2.sw_in12k')
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert 'matches the declared hash' in lines[0]
    assert 'is damaged' in lines[1] and lines[1].endswith('repair it with `coatnet-zoo pull coatnet_1.sw_in1k`')
    assert 'is damaged' in lines[2] and lines[2].endswith(f'repair it with `coatnet-zoo pull {RELEASED[0]}`')
    assert 'not in the cache' in lines[3] and '`coatnet-zoo pull coatnet_2.sw_in12k`' in lines[3]
    served.start()
    output_of('pull', 'coatnet_1', RELEASED[0], 'coatnet_2.sw_in12k')  # the advice
    assert output_of('verify', 'coatnet_1', RELEASED[0], 'coatnet_2.sw_in12k').count('matches the declared hash') == 3


def test_pull_goes_on_after_an_error(served: HubServer) -> None:
    served.faults.append(Fault('GET', 404))
    result = command('pull', 'coatnet_0', 'coatnet_1', 'coatnet_2')
    assert result.exit_code == 1
    failed, *done = result.output.splitlines()
    assert failed.startswith('Error: coatnet_0.sw_in1k: ') and len(done) == 2
    assert done[0].startswith('coatnet_1.sw_in1k: ')
    output_of('pull', 'coatnet_0', 'coatnet_1', 'coatnet_2')


def test_pull_shows_progress(fresh_cache: Path) -> None:
    env = {**os.environ, 'HF_HUB_DISABLE_PROGRESS_BARS': '0', 'TQDM_POSITION': '-1', 'HF_HUB_CACHE': str(fresh_cache)}
    command = [sys.executable, '-m', 'coatnet_zoo', 'pull', 'coatnet_0']
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and '100%' in done.stderr, done.stderr


def test_a_name_without_weights(hub: HubServer) -> None:
    for what in ('pull', 'verify'):
        assert 'there are weights for coatnet_atto, coatnet_nano, ' in refusal(what, 'coatnet_0', 'coatnet_5')
    assert hub.requests == []


def test_pull_needs_names_or_all() -> None:
    assert command('pull').exit_code == command('pull', '--all', 'coatnet_0').exit_code == 2


@torch.inference_mode()
def test_folders_for_machines_without_a_network(hub: HubServer, tmp_path: Path) -> None:
    theirs = timm_peer('coatnet_rmlp_nano_rw_224.sw_in1k')
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / SAFE)
    hub.add_repo(WEIGHTS[RMLP].hf_hub_id, {SAFE: tmp_path / SAFE})
    dest = tmp_path / 'usb stick'
    assert f'local-dir:{dest / RMLP}' in output_of('pull', RMLP, 'coatnet_atto', '--dest', dest)
    again = command('pull', 'coatnet_atto', RMLP, '--dest', dest)
    assert again.exit_code == 1 and again.output.count('already exists and is not an empty folder') == 2
    hub.stop()
    shutil.rmtree(constants.HF_HUB_CACHE)
    for folder in (dest / RMLP, dest / 'coatnet_atto.digits'):
        assert {p.name for p in folder.iterdir()} == {SAFE, 'config.json'}
    images = random_images(2)
    ours = timm.create_model(f'local-dir:{dest / RMLP}', pretrained=True).eval()
    assert ours.cfg.impl == 'timm_rmlp'
    assert_close(ours(images), theirs(images), 1e-4)
    for field in ('mean', 'std', 'crop_pct', 'interpolation', 'input_size', 'license'):
        value = ours.pretrained_cfg[field]
        value = tuple(value) if isinstance(value, list) else value
        assert value == timm.get_pretrained_cfg_value(RMLP, field), field
    digits = timm.create_model(f'local-dir:{dest / "coatnet_atto.digits"}', pretrained=True)
    assert len(digits.pretrained_cfg['label_names']) == 10
