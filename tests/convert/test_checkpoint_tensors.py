"""Tensors that no network has are refused by name; everything that torch.save makes of a state dict is converted."""

import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from checkpoint_bytes import FIXTURE, STATE_DICT, refusal, saved, write

from coatnet_zoo import CheckpointError, convert_checkpoint
from coatnet_zoo.convert import Checkpoint, translate

BIAS, VAR = 's3.0.ff.1.fn.net.0.bias', 's1.0.conv.norm.running_var'
INDEX = 's3.0.attn.1.fn.relative_index'

# Tensors.


class Subclass(torch.Tensor):
    pass


def quantised() -> torch.Tensor:
    return torch.quantize_per_tensor(STATE_DICT[BIAS], 0.1, 0, torch.qint8)


def damaged_index() -> torch.Tensor:
    index = STATE_DICT[INDEX].clone()
    index[-1] += 1
    return index


TENSORS: dict[str, tuple[str, Callable[[], Any], str]] = {
    'sparse': (BIAS, lambda: STATE_DICT[BIAS].to_sparse(), 'sparse'),
    'sparse rows': ('fc.weight', lambda: STATE_DICT['fc.weight'].to_sparse_csr(), 'sparse'),
    'meta': (BIAS, lambda: STATE_DICT[BIAS].to('meta'), 'meta'),
    'quantised': (BIAS, quantised, 'quantised'),
    'float8': (BIAS, lambda: STATE_DICT[BIAS].to(torch.float8_e4m3fn), 'float8'),
    'complex': (BIAS, lambda: STATE_DICT[BIAS].to(torch.complex64), 'complex'),
    'truth values': (BIAS, lambda: STATE_DICT[BIAS] > 0, 'bool'),
    'integers': (BIAS, lambda: STATE_DICT[BIAS].long(), 'int64'),
    'nested': (BIAS, lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), 'nested'),
    'a subclass': (BIAS, lambda: STATE_DICT[BIAS].as_subclass(Subclass), 'Subclass'),
    '4 TB in 4 bytes': (BIAS, lambda: torch.zeros(1).expand(10**12), 'bytes of memory'),
    'beyond float32': (BIAS, lambda: STATE_DICT[BIAS].double().fill_(1e39), 'torch.float32'),
    'infinite': (BIAS, lambda: STATE_DICT[BIAS] / 0, 'infinite'),
    'a negative variance': (VAR, lambda: -STATE_DICT[VAR], 'below zero'),
    'NaN in a variance': (VAR, lambda: STATE_DICT[VAR] * float('nan'), 'NaN'),
    'an index of another grid': (INDEX, damaged_index, 'grid'),
    'an index of fractions': (INDEX, lambda: STATE_DICT[INDEX] + 0.5, 'grid'),
    'a counter of half a batch': ('s0.0.1.num_batches_tracked', lambda: torch.tensor(0.5), 'num_batches_tracked'),
    'a reversed index': (INDEX, lambda: STATE_DICT[INDEX].flip(0), INDEX),
    'no statistics': (VAR, lambda: None, VAR),
    'a stage of 4,000,000': ('s1.4000000.x', lambda: torch.ones(1), 's1.4000000.'),
    'a stem of 4,000,000': ('s0.4000000.0.weight', lambda: torch.ones(1), 's0.4000000.'),
    'a number of 5,000 digits': (f's1.{"9" * 5000}.x', lambda: torch.ones(1), 's1.'),
    'digits of another script': ('s1.\u0664.x', lambda: torch.ones(1), 's1.'),
    'a name of two lines': ('s1.0.\n\x1b[31m', lambda: torch.ones(1), r's1.0.\n\x1b[31m'),
    'a long name': ('x' * 100_000, lambda: torch.ones(1), 'xxx...xxx'),
}


@pytest.mark.parametrize('case', TENSORS)
def test_tensors_that_no_network_has(case: str, tmp_path: Path) -> None:
    key, value, words = TENSORS[case]
    start = time.monotonic()
    assert words in refusal(write(tmp_path, saved({**STATE_DICT, key: value()})))
    assert time.monotonic() - start < 5


def _shared_zeros() -> dict[str, torch.Tensor]:
    zeros = torch.zeros(4096)
    return {k: zeros[: len(v)] if k.endswith('.bias') else v for k, v in STATE_DICT.items()}


def _counters(shared: bool) -> dict[str, torch.Tensor]:
    counter = torch.tensor(3)
    counted = {k: counter for k in STATE_DICT if k.endswith('num_batches_tracked')}
    return {**STATE_DICT, **counted} if shared else {k: v for k, v in STATE_DICT.items() if k not in counted}


def _each(change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: change(v) if v.is_floating_point() else v for k, v in STATE_DICT.items()}


def _with_metadata() -> OrderedDict:
    content = OrderedDict(STATE_DICT)
    content._metadata = OrderedDict({'': {'version': 1}, 's0.0.1': {'version': 2}})
    return content


ORDINARY: dict[str, Callable[[], Any]] = {
    'channels_last': lambda: _each(lambda v: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v),
    'transposed': lambda: _each(lambda v: v.t().contiguous().t() if v.ndim == 2 else v),
    'expanded': lambda: {**STATE_DICT, BIAS: torch.zeros(1).expand(len(STATE_DICT[BIAS]))},
    'every second of a larger tensor': lambda: _each(lambda v: torch.stack([v, v + 1], -1)[..., 0]),
    'parts of one tensor': lambda: _parts(),
    'shared biases': _shared_zeros,
    'shared counters': lambda: _counters(True),
    'no counters': lambda: _counters(False),
    'half of the counters': lambda: {**_counters(False), 's0.0.1.num_batches_tracked': torch.tensor(4)},
    'everything in half': lambda: {k: v.half() for k, v in STATE_DICT.items()},
    'half': lambda: _each(torch.Tensor.half),
    'bfloat16': lambda: _each(torch.Tensor.bfloat16),
    'float64': lambda: _each(torch.Tensor.double),
    'parameters': lambda: _each(torch.nn.Parameter),
    'metadata': _with_metadata,
    'data parallel': lambda: {f'module.{k}': v for k, v in STATE_DICT.items()},
    'among other things': lambda: dict(state_dict=STATE_DICT, epoch=3, optimizer=dict(state={}, lr=[0.1]), best={1, 2}),
}


def _parts() -> dict[str, torch.Tensor]:
    whole = torch.cat([v.flatten() for v in STATE_DICT.values() if v.is_floating_point()])
    parts = iter(whole.split([v.numel() for v in STATE_DICT.values() if v.is_floating_point()]))
    return _each(lambda v: next(parts).view(v.shape))


# The tensors that are zero in a case.
ZERO = {'shared biases': '.bias', 'expanded': 'fc1.bias'}


@pytest.fixture(scope='module')
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp('expected')
    convert_checkpoint(FIXTURE, folder / 'out')
    return safetensors.torch.load_file(folder / 'out' / 'model.safetensors')


@pytest.mark.parametrize('zipped_file', [True, False])
@pytest.mark.parametrize('case', ORDINARY)
def test_ordinary_files_are_converted_exactly(
    case: str, zipped_file: bool, tmp_path: Path, expected: dict[str, torch.Tensor]
) -> None:
    content = ORDINARY[case]()
    file = write(tmp_path, saved(content, _use_new_zipfile_serialization=zipped_file))
    convert_checkpoint(file, tmp_path / 'out')
    converted = safetensors.torch.load_file(tmp_path / 'out' / 'model.safetensors')
    assert converted.keys() == expected.keys()
    rounded = {'half': torch.half, 'everything in half': torch.half, 'bfloat16': torch.bfloat16}.get(
        case, torch.float32
    )
    for key, value in expected.items():
        if key.endswith('num_batches_tracked'):
            continue
        if not key.endswith(ZERO.get(case, '-')):
            assert torch.equal(converted[key], value.to(rounded).float()), key
        else:
            assert not converted[key].any() or case == 'expanded'


# Loading, where timm has read the file.


@pytest.mark.parametrize(
    'dtype, value, words',
    [
        (torch.float32, 1e39, 'torch.float32'),
        (torch.float16, 1e6, 'torch.float16'),
        (torch.bfloat16, 3.4e38 * 1.0001, 'torch.bfloat16'),
        (torch.float32, float('nan'), 'NaN'),
    ],
)
@pytest.mark.parametrize('names', ['own', 'foreign'])
def test_values_are_checked_in_the_precision_of_the_model(
    names: str, dtype: torch.dtype, value: float, words: str
) -> None:
    size, args = translate(Checkpoint(STATE_DICT)).structure.as_registered('chinhsuanwu')
    model = timm.create_model(size, impl='chinhsuanwu', **args).to(dtype)
    state_dict, key = (STATE_DICT, BIAS) if names == 'foreign' else (model.state_dict(), 'stem.conv2.weight')
    state_dict = {k: v.double() if v.is_floating_point() else v for k, v in state_dict.items()}
    state_dict[key][0] = value
    with pytest.raises(CheckpointError, match=words):
        model.load_state_dict(state_dict)


def change_folder(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    timm.models.save_for_hf(timm.create_model('coatnet_atto', num_classes=3), folder, safe_serialization=True)
    state_dict = safetensors.torch.load_file(folder / 'model.safetensors')
    change(state_dict)
    safetensors.torch.save_file(state_dict, folder / 'model.safetensors')


NORM = 'stages.0.blocks.0.pre_norm'
FOLDERS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    'beyond float32': (lambda sd: sd.update({f'{NORM}.weight': sd[f'{NORM}.weight'].double() + 1e39}), 'torch.float32'),
    'a negative variance': (lambda sd: sd[f'{NORM}.running_var'].neg_(), 'below zero'),
    'no statistics': (lambda sd: sd.pop(f'{NORM}.running_mean'), f'{NORM}.running_mean'),
}


@pytest.mark.parametrize('classes', [3, 5])
@pytest.mark.parametrize('case', FOLDERS)
def test_folders_with_values_that_no_network_has(case: str, classes: int, tmp_path: Path) -> None:
    change, words = FOLDERS[case]
    change_folder(tmp_path, change)
    with pytest.raises(CheckpointError, match=words):
        timm.create_model(f'local-dir:{tmp_path}', pretrained=True, num_classes=classes)
