"""Tensors that no network has are refused by name; everything that torch.save makes of a state dict is converted."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from checkpoint_bytes import FIXTURE, STATE_DICT, refusal, saved, write

from coatnet_zoo import CheckpointError
from coatnet_zoo.convert import Checkpoint, read_checkpoint, translate

BIAS, VAR = 's3.0.ff.1.fn.net.0.bias', 's1.0.conv.norm.running_var'
INDEX = 's3.0.attn.1.fn.relative_index'
ONE, INDICES = torch.ones(1), STATE_DICT[INDEX]


class Subclass(torch.Tensor):
    pass


# A name, its tensor, and a word of the message for archives and for legacy files.
TENSORS: dict[str, tuple[str, Any, str]] = {
    'sparse': (BIAS, STATE_DICT[BIAS].to_sparse(), 'sparse'),
    'sparse rows': ('fc.weight', STATE_DICT['fc.weight'].to_sparse_csr(), 'sparse'),
    'meta': (BIAS, STATE_DICT[BIAS].to('meta'), 'meta'),
    'quantised': (BIAS, torch.quantize_per_tensor(STATE_DICT[BIAS], 0.1, 0, torch.qint8), 'q'),
    'float8': (BIAS, STATE_DICT[BIAS].to(torch.float8_e4m3fn), 'float8'),
    'complex': (BIAS, STATE_DICT[BIAS].to(torch.complex64), 'complex'),
    'truth values': (BIAS, STATE_DICT[BIAS] > 0, 'bool'),
    'integers': (BIAS, STATE_DICT[BIAS].long(), 'int64'),
    'nested': (BIAS, torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), 'nested'),
    'a subclass': (BIAS, STATE_DICT[BIAS].as_subclass(Subclass), 'Subclass'),
    '4 TB in 4 bytes': (BIAS, torch.zeros(1).expand(10**12), 'bytes of memory'),
    'beyond float32': (BIAS, STATE_DICT[BIAS].double().fill_(1e39), 'torch.float32'),
    'infinite': (BIAS, STATE_DICT[BIAS] / 0, 'infinite'),
    'a negative variance': (VAR, -STATE_DICT[VAR], 'below zero'),
    'NaN in a variance': (VAR, STATE_DICT[VAR] * float('nan'), 'NaN'),
    'an index of another grid': (INDEX, torch.cat([INDICES[:-1], INDICES[-1:] + 1]), 'grid'),
    'an index of fractions': (INDEX, INDICES + 0.5, 'grid'),
    'a reversed index': (INDEX, INDICES.flip(0), INDEX),
    'a counter of half a batch': ('s0.0.1.num_batches_tracked', torch.tensor(0.5), 'num_batches_tracked'),
    'no statistics': (VAR, None, VAR),
    'a stage of 4,000,000': ('s1.4000000.x', ONE, 's1.4000000.'),
    'a stem of 4,000,000': ('s0.4000000.0.weight', ONE, 's0.2.0.weight'),
    'a number of 5,000 digits': (f's1.{"9" * 5000}.x', ONE, 's1.'),
    'digits of another script': ('s1.\u0664.x', ONE, 's1.'),
    'a name of two lines': ('s1.0.\n\x1b[31m', ONE, r's1.0.\n\x1b[31m'),
    'a long name': ('x' * 100_000, ONE, 'xxx...xxx'),
    'a deep name': ('a.' * 50_000, ONE, 'a.a....a.a'),
}


@pytest.mark.parametrize('case', TENSORS)
@pytest.mark.parametrize('zipped', [True, False])
def test_tensors_that_no_network_has(case: str, zipped: bool, tmp_path: Path) -> None:
    key, value, word = TENSORS[case]
    start = time.monotonic()
    file = write(tmp_path, saved({**STATE_DICT, key: value}, _use_new_zipfile_serialization=zipped))
    assert word in refusal(file)
    assert time.monotonic() - start < 20


def _each(change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: change(v) if v.is_floating_point() else v for k, v in STATE_DICT.items()}


def _parts_of_one() -> dict[str, torch.Tensor]:
    floats = [v for v in STATE_DICT.values() if v.is_floating_point()]
    parts = iter(torch.cat([v.flatten() for v in floats]).split([v.numel() for v in floats]))
    return _each(lambda v: next(parts).view(v.shape))


COUNTER = 'num_batches_tracked'
ORDINARY: dict[str, Callable[[], Any]] = {
    'channels_last': lambda: _each(lambda v: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v),
    'transposed': lambda: _each(lambda v: v.t().contiguous().t() if v.ndim == 2 else v),
    'parts of one tensor': _parts_of_one,
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
    expected, converted = translate(read_checkpoint(FIXTURE)).tensors, translate(read_checkpoint(file)).tensors
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


NORM = 'stages.0.blocks.0.pre_norm'
FOLDERS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    'NaN': (lambda sd: sd['stem.conv2.weight'].view(-1)[-1].fill_(float('nan')), 'NaN or infinite values in stem'),
    'infinite': (lambda sd: sd[f'{NORM}.running_var'].view(-1)[-1].fill_(-torch.inf), 'NaN or infinite values in'),
    'beyond float32': (lambda sd: sd.update({f'{NORM}.weight': sd[f'{NORM}.weight'].double() + 1e39}), 'torch.float32'),
    'integers': (lambda sd: sd.update({k: v.view(torch.int32) for k, v in sd.items() if v.dim()}), 'of torch.float32'),
    'a negative variance': (lambda sd: sd[f'{NORM}.running_var'].neg_(), 'below zero'),
    'no statistics': (lambda sd: sd.pop(f'{NORM}.running_mean'), f'{NORM}.running_mean'),
}


@pytest.mark.parametrize('case', FOLDERS)
def test_folders_with_values_that_no_network_has(case: str, tmp_path: Path) -> None:
    change, words = FOLDERS[case]
    timm.models.save_for_hf(timm.create_model('coatnet_atto', num_classes=3), tmp_path, safe_serialization=True)
    state_dict = safetensors.torch.load_file(tmp_path / 'model.safetensors')
    change(state_dict)
    safetensors.torch.save_file(state_dict, tmp_path / 'model.safetensors')
    for classes in 3, 5:
        with pytest.raises(CheckpointError, match=words):
            timm.create_model(f'local-dir:{tmp_path}', pretrained=True, num_classes=classes)
