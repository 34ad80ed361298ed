"""Checkpoints of chinhsuanwu's code as people have them: other heads, prefixes, keys, objects beside the weights."""

import argparse
import collections
import datetime
import enum
import functools
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from checkpoint_bytes import STATE_DICT, saved, write
from command_line import output_of
from command_line import refusal as refused
from paths import DATA

from coatnet_zoo import CheckpointError, convert_checkpoint
from coatnet_zoo.convert import create_call, read_checkpoint, translate
from coatnet_zoo.factory import load_model

Tensors = dict[str, torch.Tensor]
X = torch.load(DATA / 'chinhsuanwu_digits_64_expected.pt', weights_only=True)['x'][:4]
HEADLESS = {k: v for k, v in STATE_DICT.items() if k != 'fc.weight'}
_GENERATOR = torch.Generator().manual_seed(0)
W, B = torch.randn(7, 96, generator=_GENERATOR), torch.randn(7, generator=_GENERATOR)


@pytest.fixture(scope='module')
def features(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """What the network gives its classifier, (4, 96)."""
    convert_checkpoint(DATA / 'chinhsuanwu_digits_64.pth', folder := tmp_path_factory.mktemp('digits') / 'out')
    model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    with torch.inference_mode():
        return model.forward_head(model.forward_features(X), pre_logits=True).clone()


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + k: v for k, v in tensors.items()}


def linear(name: str, bias: bool = True) -> Tensors:
    return {f'{name}.weight': W, **({f'{name}.bias': B} if bias else {})}


# The content, and the classifier: 'W' and 'B' of the linear layer, 'fc' of the file, or none.
HEADS: dict[str, tuple[Tensors, str]] = {
    'a linear layer with bias': ({**HEADLESS, **linear('fc')}, 'WB'),
    'another linear layer': ({**HEADLESS, **linear('fc', bias=False)}, 'W'),
    'a dropout and a linear layer': ({**HEADLESS, **linear('fc.1')}, 'WB'),
    'a linear layer in a Sequential': ({**HEADLESS, **linear('fc.0', bias=False)}, 'W'),
    'a module with a linear layer': ({**HEADLESS, **linear('fc.head.classifier')}, 'WB'),
    'an identity': (HEADLESS, ''),
    'an identity in a prefix': (under('backbone.', HEADLESS), ''),
    'another name': ({**HEADLESS, **linear('head')}, 'WB'),
    'a head beside a backbone': ({**under('backbone.', HEADLESS), **linear('head')}, 'WB'),
    'a dropout and a head beside an encoder': ({**under('net.encoder.', HEADLESS), **linear('net.classifier.1')}, 'WB'),
}
PREFIXES = ['backbone.', 'encoder.', 'coatnet.', 'model.backbone.net.', 'module.', '_orig_mod.module.', '0.', 'a.b.c.']
KEYS = ['params', 'sd', 'model_state', 'net_g', 'student', 'best_model_wts']


def check(file: Path, classifier: str, features: torch.Tensor) -> None:
    """Converted and loaded directly, the network gives the logits of the features and the classifier."""
    weight = {'W': W, 'f': STATE_DICT['fc.weight']}.get(classifier[:1])
    expected = features if weight is None else features @ weight.T + (B if 'B' in classifier else 0)
    structure = translate(read_checkpoint(file)).structure
    call = create_call(
        *structure.as_registered('chinhsuanwu')[:1], 'chinhsuanwu', structure.as_registered('chinhsuanwu')[1]
    )
    direct = eval(call.replace('...', 'file'), dict(timm=timm, file=file)).eval()
    for model in (direct, load_model(str(file))):
        assert model.num_classes == (0 if weight is None else len(weight))
        with torch.inference_mode():
            torch.testing.assert_close(model(X), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('case', HEADS)
def test_heads(case: str, tmp_path: Path, features: torch.Tensor) -> None:
    content, classifier = HEADS[case]
    check(write(tmp_path, saved(dict(model=content))), classifier, features)


@pytest.mark.parametrize('prefix', PREFIXES)
def test_prefixes(prefix: str, tmp_path: Path, features: torch.Tensor) -> None:
    check(write(tmp_path, saved(under(prefix, STATE_DICT))), 'fc', features)


@pytest.mark.parametrize('key', KEYS)
def test_keys(key: str, tmp_path: Path, features: torch.Tensor) -> None:
    optimizer = dict(state={0: dict(exp_avg=torch.ones(2))}, param_groups=[dict(lr=0.1)])
    check(write(tmp_path, saved({'epoch': torch.tensor(3), 'optim': optimizer, key: STATE_DICT})), 'fc', features)


class Mode(enum.Enum):
    FAST = 1


class Attributes(dict):
    """As the configurations of training frameworks are."""


def _scheduler() -> Any:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(max, 0))


OBJECTS: dict[str, Callable[[], Any]] = {
    'a path': lambda: Path('runs/best'),
    'a Windows path': lambda: __import__('pathlib').PureWindowsPath('c:/runs'),
    'a scheduler': lambda: torch.optim.lr_scheduler.StepLR(_scheduler().optimizer, 3),
    'an optimizer': lambda: _scheduler().optimizer,
    'arguments': lambda: argparse.Namespace(lr=0.1, out=Path('runs')),
    'a numpy number': lambda: np.float64(0.5),
    'a numpy array': lambda: np.arange(5),
    'a random state': random.getstate,
    'a dictionary with a default': lambda: collections.defaultdict(list, a=[1]),
    'a counter': lambda: collections.Counter('aab'),
    'a deque': lambda: collections.deque([1, 2], 5),
    'a date': lambda: datetime.datetime(2024, 1, 2),
    'a choice': lambda: Mode.FAST,
    'a configuration': lambda: Attributes(a=Attributes(b=1)),
    'a function': lambda: np.mean,
    'a loss': lambda: torch.nn.CrossEntropyLoss(weight=torch.ones(10)),
    'a module': lambda: torch.nn.Linear(2, 2),
    'a type': lambda: torch.float16,
    'a device': lambda: torch.device('cuda'),
    'a sparse tensor': lambda: torch.eye(3).to_sparse(),
    'truth values': lambda: torch.tensor([True]),
}


@pytest.mark.parametrize('case', OBJECTS)
@pytest.mark.parametrize('kwargs', [{}, dict(pickle_protocol=4), dict(_use_new_zipfile_serialization=False)])
def test_objects_beside_the_weights(case: str, kwargs: dict, tmp_path: Path) -> None:
    content = {'first': OBJECTS[case](), 'state_dict': STATE_DICT, 'last': [OBJECTS[case]()]}
    read = read_checkpoint(write(tmp_path, saved(content, **kwargs)))
    assert read.tensors.keys() == STATE_DICT.keys()
    assert all(torch.equal(read.tensors[k], v) for k, v in STATE_DICT.items())


STRANGE: dict[str, tuple[Any, str]] = {
    'a list': ([STATE_DICT, 3], 'fc'),
    'a tuple': ((3, STATE_DICT), 'fc'),
    'a dictionary with a default': ({'model': collections.defaultdict(list, STATE_DICT)}, 'fc'),
    'a configuration': ({'state_dict': Attributes(STATE_DICT)}, 'fc'),
    'wrapped twice': ({'checkpoint': {'state_dict': STATE_DICT}}, 'fc'),
    'counts of operations': ({**STATE_DICT, 'total_ops': torch.ones(1), 's0.0.0.total_params': torch.ones(1)}, 'fc'),
    'layers that are wrapped': (
        {
            k.replace('s3.', 's3._orig_mod.').replace('s4.0.', 's4._fsdp_wrapped_module.0.'): v
            for k, v in STATE_DICT.items()
        },
        'fc',
    ),
    'a loss beside the network': ({**STATE_DICT, 'criterion.weight': torch.ones(10)}, 'fc'),
    'a model beside its state dict': ({'model': torch.nn.Linear(2, 2), 'params': STATE_DICT}, 'fc'),
    'a moving average beside the network': (
        {**under('net.', STATE_DICT), **under('ema.module.', {k: v * 0 for k, v in STATE_DICT.items()})},
        'fc',
    ),
}


@pytest.mark.parametrize('case', STRANGE)
def test_strange_contents(case: str, tmp_path: Path, features: torch.Tensor) -> None:
    content, classifier = STRANGE[case]
    check(write(tmp_path, saved(content)), classifier, features)


def test_what_lightning_keeps_beside_the_network_is_named(tmp_path: Path, features: torch.Tensor) -> None:
    tensors = {**under('model.', STATE_DICT), 'criterion.weight': torch.ones(10), 'train_acc.tp': torch.ones(10).long()}
    content = dict(state_dict=tensors, hyper_parameters=Attributes(out=Path('runs')), callbacks={'best': Path('x')})
    check(write(tmp_path, saved(content)), 'fc', features)
    text = output_of('convert', tmp_path / 'a.pth', tmp_path / 'out')
    assert 'left out, as no part of the network: criterion.weight, train_acc.tp' in text


@pytest.mark.parametrize('case', HEADS)
@torch.inference_mode()
def test_without_head_a_folder_is_a_start_for_fine_tuning(case: str, tmp_path: Path, features: torch.Tensor) -> None:
    file = write(tmp_path, saved(HEADS[case][0]))
    assert 'no classes' in output_of('convert', file, tmp_path / 'out', '--no-head')
    name = f'local-dir:{tmp_path / "out"}'
    torch.testing.assert_close(timm.create_model(name, pretrained=True).eval()(X), features, rtol=0, atol=1e-4)
    tuned = timm.create_model(name, pretrained=True, num_classes=5).eval()
    torch.testing.assert_close(
        tuned.forward_head(tuned.forward_features(X), pre_logits=True), features, rtol=0, atol=1e-4
    )
    assert tuned(X).shape == (4, 5)


TWO = {**under('student.', STATE_DICT), **under('teacher.', HEADLESS)}
TWO_KEYS = {'net_a': STATE_DICT, 'net_b': HEADLESS}


@pytest.mark.parametrize(
    'content, words, options',
    [
        (TWO, "under the prefixes 'student.' and 'teacher.'; choose one by prefix (--prefix)", ('--prefix', 'teacher')),
        (TWO_KEYS, 'under net_a and net_b; choose one by key (--key)', ('--key', 'net_b')),
        ({**STATE_DICT, **under('momentum.', HEADLESS)}, "'' and 'momentum.'", ('--prefix', 'momentum.')),
    ],
)
def test_of_two_networks_one_is_chosen(content: dict, words: str, options: tuple[str, str], tmp_path: Path) -> None:
    file = write(tmp_path, saved(content))
    assert words in refused('convert', file, tmp_path / 'out')
    assert 'no classes' in output_of('convert', file, tmp_path / 'out', *options)


DEEP = {'fc.0.weight': torch.ones(32, 96), 'fc.0.bias': torch.ones(32), 'fc.2.weight': torch.ones(7, 32)}
REFUSED: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...]]] = {
    'two layers': ({**HEADLESS, **DEEP}, (), ('fc.0.weight', 'fc.2.weight', '--no-head')),
    'a norm and a layer': (
        {**under('b.', HEADLESS), 'norm.weight': torch.ones(96), 'norm.bias': torch.ones(96), **linear('head')},
        (),
        ('norm.weight', 'head.weight', '--no-head'),
    ),
    'two heads': ({**under('b.', HEADLESS), **linear('age'), **linear('sex')}, (), ('age.weight', 'sex.weight')),
    'a layer after the classifier': ({**under('0.', STATE_DICT), '1.weight': torch.ones(3, 10)}, (), ('1.weight',)),
    'a norm before the classifier': ({**STATE_DICT, 'norm.weight': torch.ones(96)}, (), ('norm.weight', 'not belong')),
    'an unknown layer': ({**STATE_DICT, 'aux.fc.bias': torch.ones(3)}, (), ('aux.fc.bias', 'do not belong')),
    'a wrapped layer twice': (
        {**STATE_DICT, 's3._orig_mod.0.proj.weight': W},
        (),
        ('s3.0.proj.weight more than once',),
    ),
    'a missing key': ({'model': STATE_DICT}, ('--key', 'nets'), ('no state dict under nets', 'model')),
    'a key of no dictionary': ({'model': STATE_DICT, 'lr': 1}, ('--key', 'lr'), ('no state dict under lr',)),
    'a missing prefix': (under('a.', STATE_DICT), ('--prefix', 'b'), ('under the prefix b.', 'begin with a')),
    'a prefix inside': (STATE_DICT, ('--prefix', 's0'), ('is not a checkpoint of',)),
    'a whole model': (torch.nn.Linear(2, 2), (), ('Linear', 'torch.load(', 'torch.save(model.state_dict()')),
    'a whole model under a key': ({'net': torch.nn.Linear(2, 2)}, (), ('Linear', 'torch.save(model.state_dict()')),
    'a whole model under any key': ({'m': torch.nn.Linear(2, 2), 'e': 1}, (), ('torch.save(model.state_dict()',)),
}


@pytest.mark.parametrize('case', REFUSED)
@pytest.mark.parametrize('zipped', [True, False])
def test_what_cannot_be_converted_is_named(case: str, zipped: bool, tmp_path: Path) -> None:
    content, options, words = REFUSED[case]
    file = write(tmp_path, saved(content, _use_new_zipfile_serialization=zipped))
    message = refused('convert', file, tmp_path / 'out', *options)
    assert all(word in message for word in words), message
    assert not (tmp_path / 'out').exists()


def _lines_of(message: str) -> str:
    """The code of a message."""
    return re.search(r'model = .*\)', message)[0]


def test_the_lines_of_the_messages_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Sequential(collections.OrderedDict(body=torch.nn.Linear(2, 2)))
    torch.jit.script(model).save('scripted.pt')
    torch.save(model, 'whole.pth')
    for file in ('scripted.pt', 'whole.pth'):
        message = refused('convert', file, 'out')
        assert 'executed' in message
        exec(_lines_of(message), dict(torch=torch))
        assert torch.load('weights.pth', weights_only=True).keys() == model.state_dict().keys()
        Path('weights.pth').unlink()


@pytest.mark.parametrize('name', ['missing.pth', 'missing.safetensors', 'missing.h5', 'folder'])
def test_checkpoint_path_of_a_missing_file_is_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / 'folder').mkdir()
    with pytest.raises(CheckpointError) as e:
        timm.create_model('coatnet_atto', checkpoint_path=tmp_path / name)
    assert str(e.value).startswith(f'There is no file {tmp_path / name}') and '\n' not in str(e.value)


def test_checkpoint_path_is_checked_for_damage(tmp_path: Path) -> None:
    image = bytearray(saved(timm.create_model('coatnet_atto').state_dict()))
    image[len(image) // 2] ^= 1
    with pytest.raises(CheckpointError, match='checksum'):
        timm.create_model('coatnet_atto', checkpoint_path=write(tmp_path, bytes(image)))
