"""Checkpoints as people have them: other heads, prefixes, keys and wrappers; what cannot be converted is named."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from checkpoint_bytes import FIXTURE, STATE_DICT, refusal, saved, under, write
from command_line import output_of
from command_line import refusal as refused
from paths import DATA

from coatnet_zoo import CheckpointError, convert_checkpoint
from coatnet_zoo.convert import Checkpoint, read_checkpoint, translate
from coatnet_zoo.factory import load_model

Tensors = dict[str, torch.Tensor]
X = torch.load(DATA / 'chinhsuanwu_digits_64_expected.pt', weights_only=True)['x'][:4]
HEADLESS = {k: v for k, v in STATE_DICT.items() if k != 'fc.weight'}
_GENERATOR = torch.Generator().manual_seed(0)
W, B = torch.randn(7, 96, generator=_GENERATOR), torch.randn(7, generator=_GENERATOR)


def linear(name: str, bias: bool = True) -> Tensors:
    return {f'{name}.weight': W, **({f'{name}.bias': B} if bias else {})}


# The content, and the classifier: 'W' and 'B' of the linear layer, 'f' for that of the file, or none.
HEADS: dict[str, tuple[Tensors, str]] = {
    'a linear layer with bias': ({**HEADLESS, **linear('fc')}, 'WB'),
    'a module with a linear layer': ({**HEADLESS, **linear('fc.head.classifier')}, 'WB'),
    'an identity in a prefix': (under('backbone.', HEADLESS), ''),
    'a head beside a backbone': ({**under('backbone.', HEADLESS), **linear('head')}, 'WB'),
    'a dropout and a head beside an encoder': ({**under('net.encoder.', HEADLESS), **linear('net.classifier.1')}, 'WB'),
    'the head of the file and a loss': ({**STATE_DICT, 'criterion.weight': torch.ones(10)}, 'f'),
}


@pytest.fixture(scope='module')
def features(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """What the network gives its classifier, (4, 96)."""
    convert_checkpoint(FIXTURE, folder := tmp_path_factory.mktemp('digits') / 'out')
    model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    with torch.inference_mode():
        return model.forward_head(model.forward_features(X), pre_logits=True).clone()


@pytest.mark.parametrize('case', HEADS)
@torch.inference_mode()
def test_heads(case: str, tmp_path: Path, features: torch.Tensor) -> None:
    content, classifier = HEADS[case]
    file = write(tmp_path, saved(dict(model=content)))
    weight = {'W': W, 'f': STATE_DICT['fc.weight']}.get(classifier[:1])
    expected = features if weight is None else features @ weight.T + (B if 'B' in classifier else 0)
    torch.testing.assert_close(load_model(str(file)).eval()(X), expected, rtol=0, atol=1e-4)
    # Without its head, a folder is a start for fine-tuning.
    assert 'no classes' in output_of('convert', file, tmp_path / 'out', '--no-head')
    name = f'local-dir:{tmp_path / "out"}'
    tuned = timm.create_model(name, pretrained=True, num_classes=5).eval()
    found = tuned.forward_head(tuned.forward_features(X), pre_logits=True)
    torch.testing.assert_close(found, features, rtol=0, atol=1e-4)
    assert tuned(X).shape == (4, 5)


class Attributes(dict):
    """As the configurations of training frameworks are."""


OPTIMIZER = dict(state={0: dict(exp_avg=torch.ones(2))}, param_groups=[dict(lr=0.1)])
ZEROS = {k: v * 0 for k, v in STATE_DICT.items()}
CONTENTS: dict[str, Any] = {
    **{f'the prefix {prefix}': under(prefix, STATE_DICT) for prefix in ('backbone.net.', '_orig_mod.module.', '0.')},
    **{
        f'the key {key}': {'epoch': torch.tensor(3), 'optim': OPTIMIZER, key: STATE_DICT}
        for key in ('sd', 'best_model_wts')
    },
    'a list': [STATE_DICT, 3],
    'a configuration': {'state_dict': Attributes(STATE_DICT)},
    'a usual key and another': {'state_dict': STATE_DICT, 'best_state': ZEROS},
    'counts of operations': {**STATE_DICT, 'total_ops': torch.ones(1), 's0.0.0.total_params': torch.ones(1)},
    'layers that are wrapped': {
        k.replace('s3.', 's3._orig_mod.').replace('s4.0.', 's4._fsdp_wrapped_module.0.'): v
        for k, v in STATE_DICT.items()
    },
    'a model beside its state dict': {'model': torch.nn.Linear(2, 2), 'params': STATE_DICT},
    'a moving average beside the network': {**under('net.', STATE_DICT), **under('ema.module.', ZEROS)},
    'a moving average under a key': {'model': STATE_DICT, 'model_ema': ZEROS},
}


@pytest.mark.parametrize('case', CONTENTS)
def test_the_network_is_found(case: str, tmp_path: Path) -> None:
    file = write(tmp_path, saved(CONTENTS[case]))
    found = read_checkpoint(file)
    tensors = found.tensors
    assert tensors.keys() == STATE_DICT.keys() and all(torch.equal(tensors[k], v) for k, v in STATE_DICT.items())
    assert len(found.others) == ('moving average' in case or 'another' in case)
    if 'moving average' in case:
        assert not any(v.any() for v in read_checkpoint(file, ema=True).tensors.values())


TWO = {**under('student.', STATE_DICT), **under('teacher.', HEADLESS)}


@pytest.mark.parametrize(
    'content, words, options',
    [
        (TWO, "prefixes 'student.' and 'teacher.'; choose one with prefix (--prefix)", ('--prefix', 'teacher')),
        ({'a': STATE_DICT, 'b': HEADLESS}, 'under a and b; choose one with key (--key)', ('--key', 'b')),
        ({'run': {'a': STATE_DICT, 'b.c': HEADLESS}}, 'under run.a and run.b.c', ('--key', 'run.b.c')),
        ({**STATE_DICT, **under('momentum.', HEADLESS)}, "'' and 'momentum.'", ('--prefix', 'momentum.')),
    ],
)
def test_of_two_networks_one_is_chosen(content: dict, words: str, options: tuple[str, str], tmp_path: Path) -> None:
    file = write(tmp_path, saved(content))
    assert words in refused('convert', file, tmp_path / 'out')
    assert 'no classes' in output_of('convert', file, tmp_path / 'out', *options)


def without(start: str) -> Tensors:
    return {k: v for k, v in STATE_DICT.items() if not k.startswith(start)}


def itself() -> dict:
    content: dict = {}
    content['state_dict'] = content
    return content


ATTN = 's3.1.attn.1.fn.relative_'
# The content, options, and words of the message.
REFUSED: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...]]] = {
    'a list': ([1, 2], (), ('a list, not a state dict',)),
    'no tensors': ({'epoch': 3, 'lr': 0.1}, (), ('no state dict', 'epoch, lr')),
    'names of every kind': ({(1, 2): 1, 10**5000: 2, None: 3, 'x' * 10_000: 4, 'a\nb\x1b[31m': 5}, (), (r'a\nb\x1b',)),
    'many names for one dictionary': (dict.fromkeys(map(str, range(9999)), dict.fromkeys(range(9999))), (), ('no',)),
    'a dictionary in itself': (itself(), (), ('no state dict',)),
    'another network': ({'conv1.weight': torch.ones(2), 'fc.weight': torch.ones(2)}, (), ('conv1.weight',)),
    'beside a configuration': ({'model': {'mean': B}, 'weights': {'a.b': B, 'c.d': B}}, (), ('tensors are a.b, c.d',)),
    'twice': ({**STATE_DICT, **under('module.', STATE_DICT)}, (), ('has several CoAtNets',)),
    'no moving average': (STATE_DICT, ('--ema',), ('no moving average',)),
    'a missing key': ({'model': STATE_DICT}, ('--key', 'nets'), ('no state dict under nets', 'model')),
    'a missing prefix': (under('a.', STATE_DICT), ('--prefix', 'b'), ('under the prefix b.', 'begin with a')),
    'two heads': ({**under('b.', HEADLESS), **linear('age'), **linear('sex')}, (), ('age.weight', 'sex.weight')),
    'an unknown layer': ({'aux.fc.bias': torch.ones(3), **STATE_DICT}, (), ('aux.fc.bias', 'unexpected')),
    'a missing tensor': (without('s2.1.conv.fn.4.running_mean'), (), ('s2.1.conv.fn.4.running_mean',)),
    'a missing block': (without('s3.1.'), (), ('s3.1.',)),
    'a wrong shape': ({**STATE_DICT, 's2.1.conv.fn.3.weight': W}, (), ('s2.1.conv.fn.3.weight',)),
    'a flat convolution': ({**STATE_DICT, 's0.0.0.weight': B}, (), ('s0.0.0.weight', 'dimensions')),
    'a wrong table': ({**STATE_DICT, f'{ATTN}bias_table': torch.ones(50, 8)}, (), ('50 rows',)),
    'three means for one channel': (STATE_DICT, ('--mean', '0.5,0.5,0.5'), ('mean has 3 values', '1 channel')),
    'another size': (STATE_DICT, ('--img-size', '224'), ('trained at (64, 64)',)),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_converted_is_named(case: str, tmp_path: Path) -> None:
    content, options, words = REFUSED[case]
    message = refused('convert', write(tmp_path, saved(content)), tmp_path / 'out', *options)
    assert all(word in message for word in words), message
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']


# Loading into a model.


def test_another_network_is_named_with_the_call_that_loads_it() -> None:
    words = r"does not fit this model .* with timm\.create_model\(.*impl='chinhsuanwu'.*\)\.$"
    with pytest.raises(CheckpointError, match=words):
        timm.create_model('coatnet_atto', device='meta').load_state_dict(STATE_DICT)


def test_other_classes_and_missing_tensors_are_reported_as_torch_does() -> None:
    model = timm.create_model('coatnet_atto', num_classes=3)
    with pytest.raises(RuntimeError, match=r'size mismatch for head\.fc\.weight'):
        model.load_state_dict(timm.create_model('coatnet_atto').state_dict())
    state_dict = {k: v for k, v in model.state_dict().items() if k != 'stem.conv2.weight'}
    with pytest.raises(RuntimeError, match=r'Missing key\(s\).*stem\.conv2\.weight'):
        model.load_state_dict(state_dict)
    assert model.load_state_dict(state_dict, strict=False).missing_keys == ['stem.conv2.weight']


# Tensors that no network has are refused; everything that torch.save makes of a state dict is converted.

BIAS, VAR = 's3.0.ff.1.fn.net.0.bias', 's1.0.conv.norm.running_var'
INDEX = 's3.0.attn.1.fn.relative_index'
ONE, INDICES = torch.ones(1), STATE_DICT[INDEX]


class Subclass(torch.Tensor):
    pass


# A name, its tensor, and a word of the message for archives and for legacy files.
TENSORS: dict[str, tuple[str, Any, str]] = {
    'sparse': (BIAS, STATE_DICT[BIAS].to_sparse(), 'sparse'),
    'meta': (BIAS, STATE_DICT[BIAS].to('meta'), 'meta'),
    'quantised': (BIAS, torch.quantize_per_tensor(STATE_DICT[BIAS], 0.1, 0, torch.qint8), 'q'),
    'float8': (BIAS, STATE_DICT[BIAS].to(torch.float8_e4m3fn), 'float8'),
    'complex': (BIAS, STATE_DICT[BIAS].to(torch.complex64), 'complex'),
    'integers': (BIAS, STATE_DICT[BIAS].long(), 'int64'),
    'nested': (BIAS, torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), 'nested'),
    'a subclass': (BIAS, STATE_DICT[BIAS].as_subclass(Subclass), 'Subclass'),
    '4 TB in 4 bytes': (BIAS, torch.zeros(1).expand(10**12), 'shape'),
    'beyond float32': (BIAS, STATE_DICT[BIAS].double().fill_(1e39), 'torch.float32'),
    'infinite': (BIAS, STATE_DICT[BIAS] / 0, 'infinite'),
    'a negative variance': (VAR, -STATE_DICT[VAR], 'below zero'),
    'an index of another grid': (INDEX, torch.cat([INDICES[:-1], INDICES[-1:] + 1]), 'grid'),
    'a shuffled index': (INDEX, INDICES.roll(1, 0), INDEX),
    'no statistics': (VAR, None, VAR),
    'a stage of 4,000,000': ('s1.4000000.x', ONE, 's1.4000000.'),
    'a number of 5,000 digits': (f's1.{"9" * 5000}.x', ONE, 's1.'),
    'a name of two lines': ('s1.0.\n\x1b[31m', ONE, r's1.0.\n\x1b[31m'),
    'a long name': ('x' * 100_000, ONE, 'xxx...xxx'),
}


@pytest.mark.parametrize('case', TENSORS)
@pytest.mark.parametrize('zipped', [True, False])
def test_tensors_that_no_network_has(case: str, zipped: bool, tmp_path: Path) -> None:
    key, value, word = TENSORS[case]
    start = time.monotonic()
    file = write(tmp_path, saved({**STATE_DICT, key: value}, _use_new_zipfile_serialization=zipped))
    assert word in refusal(file)
    assert time.monotonic() - start < 20


def _each(change: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    return {k: change(v) if v.is_floating_point() else v for k, v in STATE_DICT.items()}


COUNTER = 'num_batches_tracked'
ORDINARY: dict[str, Callable[[], Any]] = {
    'transposed': lambda: _each(lambda v: v.t().contiguous().t() if v.ndim == 2 else v),
    'a shared counter': lambda: {**STATE_DICT, **dict.fromkeys((k for k in STATE_DICT if COUNTER in k), ONE.long()[0])},
    'no counters': lambda: {k: v for k, v in STATE_DICT.items() if COUNTER not in k},
    'half': lambda: {k: v.half() for k, v in STATE_DICT.items()},
    'bfloat16': lambda: _each(torch.Tensor.bfloat16),
    'parameters': lambda: _each(torch.nn.Parameter),
}


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('case', ORDINARY)
def test_ordinary_files_are_converted_exactly(case: str, zipped: bool, tmp_path: Path) -> None:
    file = write(tmp_path, saved(ORDINARY[case](), _use_new_zipfile_serialization=zipped))
    expected, converted = translate(Checkpoint(STATE_DICT)).tensors, translate(read_checkpoint(file)).tensors
    assert converted.keys() == expected.keys()
    dtype = {'half': torch.half, 'bfloat16': torch.bfloat16}.get(case, torch.float32)
    for key, value in expected.items():
        assert key.endswith(COUNTER) or torch.equal(converted[key].float(), value.to(dtype).float()), key


# Values in the precision of the model.


TOO_LARGE = {torch.float32: 1e39, torch.float16: 1e6, torch.bfloat16: 3.4e38 * 1.0001}


@pytest.mark.parametrize('dtype', TOO_LARGE)
@pytest.mark.parametrize('names', ['own', "chinhsuanwu's"])
def test_values_are_checked_when_a_model_loads(names: str, dtype: torch.dtype) -> None:
    size, args = translate(Checkpoint(STATE_DICT)).structure.as_registered('chinhsuanwu')
    model = timm.create_model(size, impl='chinhsuanwu', **args).to(dtype)
    state_dict, key = (model.state_dict(), 'stem.conv2.weight') if names == 'own' else (STATE_DICT, BIAS)
    state_dict = {k: v.double() if v.is_floating_point() else v for k, v in state_dict.items()}
    for value, word in (TOO_LARGE[dtype], str(dtype)), (float('nan'), 'NaN'):
        state_dict[key][0] = value
        with pytest.raises(CheckpointError, match=word):
            model.load_state_dict(state_dict)


CHANGED: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    'NaN': (lambda sd: sd['stem.conv2.weight'].view(-1)[-1].fill_(float('nan')), 'NaN or infinite values in stem'),
    'integers': (lambda sd: sd.update({k: v.view(torch.int32) for k, v in sd.items() if v.dim()}), 'of torch.float32'),
    'a negative variance': (lambda sd: sd['stages.0.blocks.0.pre_norm.running_var'].neg_(), 'below zero'),
    'no statistics': (lambda sd: sd.pop('stages.0.blocks.0.pre_norm.running_mean'), 'pre_norm.running_mean'),
}


@pytest.mark.parametrize('case', CHANGED)
def test_folders_with_values_that_no_network_has(case: str, tmp_path: Path) -> None:
    change, words = CHANGED[case]
    model = timm.create_model('coatnet_atto', num_classes=3)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    change(state_dict := model.state_dict())
    safetensors.torch.save_file(state_dict, tmp_path / 'model.safetensors')
    for classes in 3, 5:
        with pytest.raises(CheckpointError, match=words):
            timm.create_model(f'local-dir:{tmp_path}', pretrained=True, num_classes=classes)
