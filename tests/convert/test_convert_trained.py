"""Checkpoints of timm's train.py, by timm's own saver, become folders; tests/docs runs the script itself."""

import argparse
import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from command_line import output_of, refusal
from paths import DATA
from peers import assert_close, random_images, randomize_
from timm.data import resolve_input_data_config, resolve_model_data_config
from timm.models import resolve_model_input_args, save_for_hf
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import nn

from coatnet_zoo import convert_checkpoint
from coatnet_zoo.factory import load_model

TINY = dict(stem_width=(8, 16), embed_dim=(32, 32, 64, 64), depths=(1, 1, 2, 1))
FIXTURE = DATA / 'chinhsuanwu_digits_64.pth'
# The arguments of train.py that matter, with its defaults.
NONE = ('num_classes', 'in_chans', 'input_size', 'img_size', 'gp', 'drop_path', 'mean', 'std', 'crop_pct')
DEFAULTS = dict.fromkeys(NONE) | dict(drop=0.0, interpolation='', pretrained=False, pretrained_path=None, lr=1e-3)
RUNS: dict[str, dict[str, Any]] = {
    'a registered name': dict(model='coatnet_atto', num_classes=10, in_chans=1),
    'defaults of the name': dict(model='coatnet_atto', in_chans=1),
    'input_size': dict(model='coatnet_atto', num_classes=10, input_size=[1, 64, 96]),
    'another img_size': dict(
        model='coatnet_atto', num_classes=10, in_chans=1, img_size=96, mean=[0.3], std=[0.4], crop_pct=0.9
    ),
    'an implementation': dict(model='coatnet_0', num_classes=5, img_size=64, model_kwargs=dict(TINY, impl='timm')),
    'a folder': dict(model='local-dir:start', num_classes=10, in_chans=1, pretrained=True),
    'a folder with other classes and channels': dict(model='local-dir:start', num_classes=3, pretrained=True),
    "a folder of timm's": dict(model='local-dir:theirs', num_classes=3, pretrained=True),
    "a folder of timm's as it is": dict(model='local-dir:theirs'),
    "timm's repository": dict(
        model='hf_hub:timm/coatnet_nano_rw_224.sw_in1k', num_classes=3, img_size=96, model_kwargs=TINY
    ),
    "timm's name like a path": dict(
        model='timm/coatnet_nano_rw_224', num_classes=3, input_size=[3, 64, 96], model_kwargs=TINY
    ),
    "timm's native size": dict(model='test_coatnet', num_classes=3),
    "timm's 384 pixels": dict(model='coatnet_rmlp_2_rw_384', num_classes=3, model_kwargs=TINY),
    "timm's classes of a tag": dict(model='coatnet_2_rw_224.sw_in12k', model_kwargs=dict(TINY, img_size=64)),
    'no tables, built for another size': dict(
        model='coatnet_rmlp_nano_rw_224', num_classes=3, model_kwargs=dict(TINY, img_size=96)
    ),
    "timm's own name": dict(
        model='coatnet_nano_rw_224.sw_in1k', num_classes=3, img_size=64, theirs=dict(TINY, img_size=64)
    ),
}


@pytest.fixture(scope='module')
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('digits') / 'start'
    return convert_checkpoint(FIXTURE, folder, mean=[0.5], std=[0.5], interpolation='bilinear', crop_pct=1.0).folder


@pytest.fixture(autouse=True)
def start(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to start from, by a path from the folder where the script ran."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(digits, 'start')
    theirs = timm.create_model('coatnet_rmlp_nano_rw_224', **TINY, num_classes=4, in_chans=3, img_size=64)
    save_for_hf(theirs, 'theirs', model_config=dict(pretrained_cfg=dict(crop_pct=0.8)), safe_serialization=True)


def arguments(run: dict[str, Any]) -> argparse.Namespace:
    kwargs = {**run.get('model_kwargs', {}), **run.get('theirs', {})}
    rest = {k: v for k, v in run.items() if k != 'theirs'}
    return argparse.Namespace(**{**DEFAULTS, **rest, 'model_kwargs': kwargs})


def create(args: argparse.Namespace) -> nn.Module:
    """The model as train.py makes it, with random weights."""
    name = re.sub('^(hf_hub:)?timm/', '', args.model)
    model = timm.create_model(
        name, in_chans=args.in_chans or (args.input_size[0] if args.input_size else 3), num_classes=args.num_classes,
        drop_rate=args.drop, drop_path_rate=args.drop_path, global_pool=args.gp,
        **{'img_size': resolve_model_input_args(name, vars(args)).get('img_size'), **args.model_kwargs},
    )  # fmt: skip
    return randomize_(model)


def save(args: argparse.Namespace, folder: Path) -> tuple[nn.Module, nn.Module]:
    """What train.py saves: `model_best.pth.tar` and others. Returns the model and the moving average."""
    model = create(args)
    ema = ModelEmaV3(copy.deepcopy(model))
    randomize_(ema.module, seed=1)
    optimizer = torch.optim.AdamW(model.parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    saver = CheckpointSaver(model, optimizer, args=args, model_ema=ema, checkpoint_dir=folder, recovery_dir=folder)
    saver.save_checkpoint(0, metric=12.5)
    return model.eval(), ema.module.eval()


@pytest.mark.parametrize('case', RUNS)
def test_the_folder_gives_the_logits_of_the_tuned_model(case: str, tmp_path: Path) -> None:
    args = arguments(RUNS[case])
    for average, tuned in enumerate(save(args, tmp_path)):
        config = resolve_input_data_config(tuned, vars(args))
        names = [f'class {i}' for i in range(tuned.num_classes)]
        result = convert_checkpoint('model_best.pth.tar', out := f'out {average}', ema=bool(average), labels=names)
        assert (result.assumed, result.left_out, result.structure.num_classes) == ({}, (), tuned.num_classes)
        loaded = timm.create_model(f'local-dir:{out}', pretrained=True).eval()
        x = random_images(2, tuned.stem.conv1.in_channels, config['input_size'][1:])
        with torch.inference_mode():
            assert_close(loaded(x), tuned(x), rel=1e-5)
    saved = json.loads(Path(out, 'config.json').read_text())
    assert saved['label_names'] == names
    assert saved['num_classes'] == tuned.num_classes and 'num_classes' not in saved['model_args']
    again = resolve_model_data_config(loaded)
    assert tuple(again['input_size']) == (loaded.in_chans, *config['input_size'][1:])
    assert all(again[name] == config[name] for name in ('interpolation', 'crop_pct', 'crop_mode'))
    assert all(set(again[name]) == set(config[name]) for name in ('mean', 'std'))
    assert ('license' in saved['pretrained_cfg']) == (args.pretrained and not args.model.startswith('local-dir:'))


@torch.inference_mode()
def test_every_way_to_a_model_takes_the_file(tmp_path: Path) -> None:
    with torch.inference_mode(False):
        tuned, average = save(arguments(RUNS['an implementation']), tmp_path)
    x = random_images(2, 3, 64)
    for file in ('last.pth.tar', 'checkpoint-0.pth.tar'):
        assert_close(load_model(file)(x), tuned(x), rel=1e-5)
    direct = timm.create_model('coatnet_0', impl='timm', num_classes=5, **TINY, checkpoint_path='last.pth.tar')
    assert_close(direct.eval()(x), average(x), rel=1e-5)  # timm takes the moving average, too
    text = output_of('convert', 'last.pth.tar', 'out', '--no-head', '--ema')
    assert 'assumed' not in text and 'no classes' in text and 'not taken: the network under state_dict;' in text
    features = timm.create_model('local-dir:out', pretrained=True).eval()(x)
    assert_close(features, average.forward_head(average.forward_features(x), pre_logits=True), rel=1e-5)


def test_options_replace_what_is_recorded(tmp_path: Path) -> None:
    save(arguments(RUNS['another img_size']), tmp_path)
    output_of('convert', 'last.pth.tar', 'out', '--mean', '0.6', '--name', 'mine')
    cfg = timm.create_model('local-dir:out', pretrained=True).pretrained_cfg
    assert (cfg['mean'], cfg['std'], cfg['crop_pct'], cfg['tag']) == ([0.6], [0.4], 0.9, 'mine')


BAD: dict[str, tuple[dict[str, Any], str]] = {
    'another network': (dict(model='resnet18'), 'trained as resnet18, which is not a network of this package'),
    'a folder that is gone': (dict(model='local-dir:gone'), 'gone'),
    'other classes': (dict(num_classes=7), 'head.fc.weight'),
    'another size': (dict(model_kwargs=dict(img_size=96)), 'relative_position_bias_table'),
    'fewer blocks': (dict(model_kwargs=dict(depths=(1, 1, 2, 2))), 'has the tensor stages.1.blocks.1'),
    'a file to load': (dict(model_kwargs=dict(checkpoint_path='/etc/passwd')), 'checkpoint_path'),
    'a configuration': (dict(model_kwargs=dict(pretrained_cfg_overlay=dict(file='/etc/passwd'))), 'pretrained_cfg'),
    'an unknown impl': (dict(model_kwargs=dict(impl='none')), "impl='none'"),
    'an interpolation': (dict(interpolation='none'), 'interpolation'),
}  # fmt: skip


@pytest.fixture(scope='module')
def good() -> dict[str, Any]:
    return dict(state_dict=timm.create_model('coatnet_atto', in_chans=1).state_dict(), epoch=3)


@pytest.mark.parametrize('case', BAD)
def test_a_record_that_is_of_another_network(case: str, good: dict[str, Any], tmp_path: Path) -> None:
    change, words = BAD[case]
    args = argparse.Namespace(**{**vars(arguments(RUNS['a registered name'])), **change})
    torch.save({**good, 'args': args, 'arch': args.model}, 'last.pth.tar')
    message = refusal('convert', 'last.pth.tar', 'out')
    assert words in message and len(message) < 1000, message
    assert not (tmp_path / 'out').exists()


def test_windows_that_are_too_large_for_the_images(tmp_path: Path) -> None:
    save(arguments(dict(model='coatnet_0', img_size=64, model_kwargs=dict(TINY, impl='timm', attn_window=7))), tmp_path)
    assert 'attn_window=7 has no effect' in refusal('convert', 'last.pth.tar', 'out')


# State dicts of this package without a record.


def test_a_state_dict_of_a_registered_network(tmp_path: Path) -> None:
    model = randomize_(timm.create_model('coatnet_nano', impl='timm_rmlp', in_chans=1, num_classes=10))
    torch.save({'model': {f'net.{k}': v for k, v in model.state_dict().items()}}, 'best.pth')
    text = output_of('convert', 'best.pth', 'out')
    assert 'Assumed, as the file does not record' in text and 'crop_pct=0.9' in text
    loaded = timm.create_model('local-dir:out', pretrained=True)
    assert loaded.cfg == model.cfg and loaded.num_classes == 10
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    assert 'license' not in json.loads((tmp_path / 'out' / 'config.json').read_text())['pretrained_cfg']


def test_arguments_of_another_script_are_not_those_of_train_py(tmp_path: Path) -> None:
    state_dict = randomize_(timm.create_model('coatnet_atto', in_chans=1, num_classes=4)).state_dict()
    torch.save(dict(model=state_dict, args=argparse.Namespace(model='my coatnet', lr=1)), 'best.pth')
    assert 'Assumed, as the file does not record' in output_of('convert', 'best.pth', 'out')


def test_a_state_dict_of_another_structure_needs_its_arguments(tmp_path: Path) -> None:
    torch.save(timm.create_model('coatnet_0', impl='timm', **TINY).state_dict(), 'best.pth')
    assert 'the shapes of no registered network' in refusal('convert', 'best.pth', 'out')
