"""Every published file of timm's, from a Hub on the loopback interface: the names that it has here, and its logits."""

import gc
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from empty_weights import empty_weights
from hub_server import HubServer, assert_only_safetensors
from long_tests import slow
from peers import assert_close, random_images, timm_peer
from torch import nn

from coatnet_zoo import HubError

REL = 1e-4
BIN = 'pytorch_model.bin'
SAFE = 'model.safetensors'

# Ours (the default tag where there is none), and timm's name of the same weights.
NAMES = {
    'coatnet_nano': 'coatnet_nano_rw_224.sw_in1k',
    'coatnet_0': 'coatnet_0_rw_224.sw_in1k',
    'coatnet_1': 'coatnet_1_rw_224.sw_in1k',
    'coatnet_2': 'coatnet_2_rw_224.sw_in12k_ft_in1k',
    'coatnet_3': 'coatnet_3_rw_224.sw_in12k',
    'coatnet_nano.rmlp_sw_in1k': 'coatnet_rmlp_nano_rw_224.sw_in1k',
    'coatnet_0.bn_sw_in1k': 'coatnet_bn_0_rw_224.sw_in1k',
    'coatnet_1.rmlp_sw_in1k': 'coatnet_rmlp_1_rw_224.sw_in1k',
    'coatnet_1.rmlp2_sw_in12k': 'coatnet_rmlp_1_rw2_224.sw_in12k',
    'coatnet_1.rmlp2_sw_in12k_ft_in1k': 'coatnet_rmlp_1_rw2_224.sw_in12k_ft_in1k',
    'coatnet_2.sw_in12k': 'coatnet_2_rw_224.sw_in12k',
    'coatnet_2.rmlp_sw_in1k': 'coatnet_rmlp_2_rw_224.sw_in1k',
    'coatnet_2.rmlp_sw_in12k': 'coatnet_rmlp_2_rw_224.sw_in12k',
    'coatnet_2.rmlp_sw_in12k_ft_in1k': 'coatnet_rmlp_2_rw_224.sw_in12k_ft_in1k',
    'coatnet_2.rmlp_sw_in12k_ft_in1k_384': 'coatnet_rmlp_2_rw_384.sw_in12k_ft_in1k',
}
# Of the networks that are small; `make slow` has the others of LONG_LOGITS, and tests/network small ones of all.
LOGITS = ('coatnet_nano', 'coatnet_nano.rmlp_sw_in1k', 'coatnet_0.bn_sw_in1k')
QUICK = ('coatnet_0', 'coatnet_1')
LONG_LOGITS = ('coatnet_1.rmlp2_sw_in12k_ft_in1k', 'coatnet_2.rmlp_sw_in12k_ft_in1k_384')
FILES = [pytest.param(name, marks=[slow] * (name not in QUICK)) for name in NAMES if name not in LOGITS + LONG_LOGITS]


def publish(hub: HubServer, name: str, model: nn.Module, folder: Path) -> None:
    """Serve a model of timm's as timm does, together with a pickle that nobody is to ask for."""
    safetensors.torch.save_file(model.state_dict(), folder / SAFE)
    hub.add_repo(f'timm/{name}', {SAFE: folder / SAFE, BIN: b'not to be fetched'})


@pytest.mark.parametrize('name', [*LOGITS, *(pytest.param(name, marks=slow) for name in LONG_LOGITS)])
@torch.inference_mode()
def test_logits_are_those_of_timm(name: str, hub: HubServer, fresh_cache: Path) -> None:
    timm_name = NAMES[name]
    theirs = timm_peer(timm_name)
    chans, *size = theirs.pretrained_cfg['input_size']
    images = random_images(2, chans, tuple(size))
    expected = theirs(images)
    assert expected.shape == (2, timm.get_pretrained_cfg(timm_name).num_classes)
    with tempfile.TemporaryDirectory() as folder:
        publish(hub, timm_name, theirs, Path(folder))
        del theirs
        gc.collect()
        ours = timm.create_model(name, pretrained=True, cache_dir=fresh_cache).eval()
    assert_close(ours(images), expected, REL)
    assert_only_safetensors(hub, f'timm/{timm_name}')


@pytest.mark.parametrize('name', FILES)
def test_every_other_file_of_timms_is_taken_whole(name: str, hub: HubServer, fresh_cache: Path, tmp_path: Path) -> None:
    """Logits of these networks are compared in tests/network, so zeros in timm's shapes are enough here."""
    timm_name = NAMES[name]
    hub.add_repo(f'timm/{timm_name}', {SAFE: empty_weights(timm_name, tmp_path), BIN: b'not to be fetched'})
    ours = timm.create_model(name, pretrained=True, cache_dir=fresh_cache)
    assert not any(tensor.any() for tensor in ours.state_dict().values())
    theirs = timm.get_pretrained_cfg(timm_name)
    for key in ('num_classes', 'input_size', 'mean', 'std', 'crop_pct', 'interpolation'):
        assert ours.pretrained_cfg[key] == getattr(theirs, key), key
    assert_only_safetensors(hub, f'timm/{timm_name}')


@pytest.mark.parametrize('options', [dict(in_chans=1), dict(features_only=True)], ids=str)
@torch.inference_mode()
def test_options_do_what_they_do_in_timm(options: dict, hub: HubServer, fresh_cache: Path, tmp_path: Path) -> None:
    timm_name = NAMES['coatnet_nano']
    publish(hub, timm_name, timm_peer(timm_name), tmp_path)
    overlay = dict(file=str(tmp_path / SAFE))
    theirs = timm.create_model(timm_name, pretrained=True, pretrained_cfg_overlay=overlay, **options).eval()
    ours = timm.create_model('coatnet_nano', pretrained=True, cache_dir=fresh_cache, **options).eval()
    images = random_images(chans=options.get('in_chans', 3))
    outputs = [model(images) for model in (ours, theirs)]
    for ours_out, theirs_out in zip(*outputs, strict=True) if 'features_only' in options else [outputs]:
        assert_close(ours_out, theirs_out, REL)
    (file,) = fresh_cache.glob(f'models--timm--{timm_name}/snapshots/*/*')
    assert file.name == SAFE
    for cfg in (ours.pretrained_cfg, ours.default_cfg):  # the user sees the repository, not the file in the cache
        assert cfg['hf_hub_id'] == f'timm/{timm_name}' and str(fresh_cache) not in repr(cfg)


def test_overlaid_repository_is_loaded_from(hub: HubServer, fresh_cache: Path, tmp_path: Path) -> None:
    file = empty_weights(NAMES['coatnet_nano'], tmp_path)
    commit = hub.add_repo('someone/finetuned', {SAFE: file})
    overlay = dict(hf_hub_id=f'someone/finetuned@{commit}')
    timm.create_model('coatnet_nano', pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=fresh_cache)
    assert {path for _, path in hub.requests} == {f'/someone/finetuned/resolve/{commit}/{SAFE}'}
    overlay = dict(hf_hub_filename=BIN)
    with pytest.raises(HubError, match=r'only \.safetensors'):
        timm.create_model('coatnet_nano', pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=fresh_cache)
