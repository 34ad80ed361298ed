"""timm's own CoAtNets, fine-tuned: folders, repositories and the forms in which state dicts are saved."""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from checkpoint_bytes import under
from command_line import output_of, refusal
from hub_server import HubServer
from paths import DATA
from peers import assert_close, random_images, timm_peer
from timm.models import save_for_hf
from torch import nn
from torch.nn.utils import prune

from coatnet_zoo import CheckpointError, convert_checkpoint
from coatnet_zoo.factory import load_model

Tensors = dict[str, torch.Tensor]
PHOTO = next(iter((DATA / 'digits').glob('*.png')))
LABELS = [f'thing {i}' for i in range(7)]


@pytest.fixture(scope='module')
def tuned() -> nn.Module:
    return timm_peer('test_coatnet', num_classes=7)


@pytest.fixture
def folder(tuned: nn.Module, tmp_path: Path) -> Path:
    stated = dict(tag='mine', license='mit', mean=(0.4, 0.4, 0.4), crop_pct=0.8)
    config = dict(label_names=LABELS, pretrained_cfg=stated)
    save_for_hf(tuned, tmp_path / 'tuned', model_config=config, safe_serialization=True)
    return tmp_path / 'tuned'


FORMS: dict[str, Callable[[Tensors], dict]] = {
    'bare': lambda sd: sd,
    'a whole model': lambda sd: None,
    'an average of checkpoints': lambda sd: {k: v + 0.3 if k.endswith('tracked') else v for k, v in sd.items()},
    'a Sequential for the head': lambda sd: {k.replace('head.fc.', 'head.2.'): v for k, v in sd.items()},
    'module.': lambda sd: under('module.', sd),
    'half': lambda sd: {k: v.half() for k, v in sd.items()},
    'a dropout and a linear layer': lambda sd: {k.replace('head.fc.', 'head.fc.1.'): v for k, v in sd.items()},
    'a backbone and a layer': lambda sd: {
        **under('backbone.', {k: v for k, v in sd.items() if 'head.fc' not in k}),
        'fc.weight': sd['head.fc.weight'],
        'fc.bias': sd['head.fc.bias'],
    },
}


@pytest.mark.parametrize('case', ['an activation', 'a pooling', 'a head of two layers'])
def test_whole_models_with_other_layers_are_refused(case: str, tmp_path: Path) -> None:
    model = timm_peer('test_coatnet', num_classes=7, global_pool='max' if case == 'a pooling' else 'avg')
    if case == 'an activation':
        model.stages[1].blocks[0].norm1.act = nn.ReLU()
    if case == 'a head of two layers':
        model.head = nn.Sequential(model.head.global_pool, nn.Flatten(), nn.ReLU(), nn.Linear(128, 7))
    torch.save(model, tmp_path / 'whole.pth')
    message = refusal('convert', tmp_path / 'whole.pth', tmp_path / 'out')
    assert ('norm1.act is ReLU' if case == 'an activation' else '(--no-head) leaves out') in message


def by_the_printed_call(content: dict, file: Path, size: tuple[int, int]) -> nn.Module:
    """The model that a refusal says how to load."""
    with torch.inference_mode(False), pytest.raises(CheckpointError) as caught:
        timm.create_model('coatnet_atto', device='meta').load_state_dict(content)
    call = re.search(r'timm\.create_model\(.*\.\.\.\)', str(caught.value))[0]
    return eval(call.replace('...', repr(str(file))).replace('(HEIGHT, WIDTH)', str(size))).eval()


@pytest.mark.parametrize('form', FORMS)
@torch.inference_mode()
def test_state_dicts_convert_with_their_classifier(form: str, tuned: nn.Module, tmp_path: Path) -> None:
    torch.save(FORMS[form](tuned.state_dict()) or tuned, tmp_path / 'best.pth')
    output = output_of('convert', tmp_path / 'best.pth', tmp_path / 'out')
    assert '7 classes' in output and 'left out' not in output
    loaded = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).eval()
    x = random_images(2, 3, 160)
    assert_close(loaded(x), tuned(x), rel=1e-2 if form == 'half' else 1e-4)


SIZES: dict[str, tuple[str, dict[str, Any], tuple[str, ...], str]] = {
    'the tables show it': ('test_coatnet', dict(img_size=96, in_chans=1), (), '96x96; 7'),
    'the tables fit no square': ('test_coatnet', dict(img_size=(96, 128)), ('--img-size', '96x128'), '96x128; 7'),
    'no table, as given': ('coatnet_rmlp_nano_rw_224', dict(img_size=96), ('--img-size', '96'), '96x96; 7'),
    'no table, as usual': ('coatnet_rmlp_nano_rw_224', {}, (), 'img_size=(224, 224)'),
    'no bias': ('test_coatnet', dict(img_size=64), (), '64x64; 7'),
}


@pytest.mark.parametrize('case', SIZES)
@torch.inference_mode()
def test_sizes_and_channels(case: str, tmp_path: Path) -> None:
    name, arguments, options, words = SIZES[case]
    with torch.inference_mode(False):
        theirs = timm_peer(name, num_classes=7, **arguments)
    if case == 'no bias':
        theirs.head.fc.bias = None
    torch.save(theirs.state_dict(), tmp_path / 'best.pth')
    assert words in output_of('convert', tmp_path / 'best.pth', tmp_path / 'out', *options)
    ours = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).eval()
    x = random_images(2, ours.in_chans, ours.img_size)
    for loaded in (ours, by_the_printed_call(theirs.state_dict(), tmp_path / 'best.pth', ours.img_size)):
        assert_close(loaded(x), theirs(x), rel=1e-5)


def test_sizes_that_no_file_shows_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(timm_peer('test_coatnet', num_classes=3, img_size=(64, 96)).state_dict(), file := tmp_path / 'best.pth')
    for size, words in ((), 'HEIGHTxWIDTH'), (('--img-size', '64x64'), 'HEIGHTxWIDTH'):
        assert words in refusal('convert', file, tmp_path / 'out', *size)
    output_of('predict', PHOTO, '--model', file, '--img-size', '64x96')
    torch.save(timm_peer('coatnet_rmlp_nano_rw_224', num_classes=3).state_dict(), file)
    assert load_model(str(file), (96, 128)).img_size == (96, 128) and 'convert --img-size' not in caplog.text
    assert load_model(str(file)).img_size == (224, 224)
    assert 'assuming 224x224; see `convert --img-size`' in caplog.text
    torch.save(timm_peer('test_coatnet', num_classes=3).state_dict(), file)
    assert 'was trained at (160, 160)' in refusal('convert', file, tmp_path / 'out', '--img-size', '96')
    assert '150x150; 3' in output_of('convert', file, tmp_path / 'out', '--img-size', '150')  # with the same tables
    assert load_model(str(file), (96, 128)).img_size == (96, 128)


def test_pruning_is_made_permanent_as_the_refusal_says(tmp_path: Path) -> None:
    model, x = timm_peer('test_coatnet', num_classes=7), random_images(2, 3, 160)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    for layer in layers:
        prune.l1_unstructured(layer, 'weight', 0.3)
    torch.save(model.state_dict(), file := tmp_path / 'best.pth')
    call = re.search(r'torch\.nn.*?\)', refusal('convert', file, tmp_path / 'out'))[0]
    for layer in layers:
        exec(call, dict(torch=torch, layer=layer))
    torch.save(model.state_dict(), file)
    with torch.inference_mode():
        assert_close(load_model(str(file))(x), model(x), rel=1e-5)


STRANGE: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    'two layers': (lambda sd: {**sd, 'head.fc.0.weight': torch.ones(9, 128)}, '--no-head'),
    'LoRA': (lambda sd: {k.replace('.qkv.', '.qkv.base_layer.'): v for k, v in sd.items()}, 'merge_and_unload()'),
    'features': (lambda sd: {k.replace('stages.', 'stages_'): v for k, v in sd.items()}, 'features_only=True'),
    'MaxViT': (lambda sd: timm.create_model('test_maxvit', device='meta').state_dict(), 'of a MaxViT'),
    'CoAtNeXt': (
        lambda sd: timm.create_model('coatnext_nano_rw_224', depths=(1,) * 4, device='meta').state_dict(),
        'of a CoAtNeXt',
    ),
}


@pytest.mark.parametrize('case', STRANGE)
def test_other_layers_are_named_with_the_way(case: str, tuned: nn.Module, tmp_path: Path) -> None:
    change, words = STRANGE[case]
    torch.save({k: torch.ones(v.shape) for k, v in change(tuned.state_dict()).items()}, tmp_path / 'best.pth')
    assert words in refusal('convert', tmp_path / 'best.pth', tmp_path / 'out')


@torch.inference_mode()
def test_folders_keep_labels_and_preprocessing(tuned: nn.Module, folder: Path, tmp_path: Path) -> None:
    x = random_images(2, 3, 160)
    assert_close(load_model(str(folder))(x), tuned(x), rel=1e-5)
    output = output_of('convert', folder, tmp_path / 'out')
    assert 'assumed' not in output
    cfg = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert cfg['label_names'] == LABELS and cfg['pretrained_cfg']['mean'] == [0.4, 0.4, 0.4]
    assert cfg['pretrained_cfg']['license'] == 'mit'
    assert cfg['pretrained_cfg']['crop_pct'] == 0.8
    loaded = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).eval()
    assert_close(loaded(x), tuned(x), rel=1e-5)
    by_class = {**json.loads((folder / 'config.json').read_text()), 'label_names': dict(enumerate(LABELS))}
    (folder / 'config.json').write_text(json.dumps(by_class))
    assert list(load_model(str(folder)).pretrained_cfg['label_names']) == LABELS
    assert 'no classes' in output_of('convert', folder, tmp_path / 'headless', '--no-head')


@torch.inference_mode()
def test_a_folder_of_transformers(tuned: nn.Module, folder: Path, tmp_path: Path) -> None:
    """Its names begin with timm_model., and its config.json has more fields."""
    tensors = safetensors.torch.load_file(folder / 'model.safetensors')
    safetensors.torch.save_file(under('timm_model.', tensors), folder / 'model.safetensors')
    config = json.loads((folder / 'config.json').read_text())
    config |= dict(architectures=['TimmWrapperForImageClassification'], model_type='timm_wrapper')
    (folder / 'config.json').write_text(json.dumps(config))
    result = convert_checkpoint(f'local-dir:{folder}', tmp_path / 'out')
    loaded = timm.create_model(f'local-dir:{result.folder}', pretrained=True).eval()
    x = random_images(2, 3, 160)
    assert_close(loaded(x), tuned(x), rel=1e-5)


@torch.inference_mode()
def test_a_repository(tuned: nn.Module, folder: Path, hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo('me/tuned', folder)
    output_of('convert', 'hf-hub:me/tuned', tmp_path / 'out')
    x = random_images(2, 3, 160)
    assert_close(load_model(str(tmp_path / 'out'))(x), tuned(x), rel=1e-5)
    run = dict(arch='hf-hub:me/tuned', args=argparse.Namespace(model='hf-hub:me/tuned'), state_dict=tuned.state_dict())
    torch.save(run, tmp_path / 'last.pth.tar')
    for source in (str(tmp_path / 'last.pth.tar'), 'hf-hub:me/tuned'):
        assert_close(load_model(source)(x), tuned(x), rel=1e-5)


def test_folders_that_do_not_convert(tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    assert 'Config file not found' in refusal('convert', tmp_path / 'empty', tmp_path / 'out')
    for name, words in (('resnet18', 'its architecture is resnet18'), ('coatnet_atto', 'needs no conversion')):
        save_for_hf(timm.create_model(name, num_classes=3), tmp_path / name, safe_serialization=True)
        assert words in refusal('convert', tmp_path / name, tmp_path / 'out')
