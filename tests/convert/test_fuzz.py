"""Fuzzing of what reads weights: 500 cases each of headers and keys, and no error but our own.

Files that are damaged anywhere are in `tests/convert/test_checkpoint_fuzz.py`.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import DATA
from safetensors_bytes import image_of

from coatnet_zoo import CheckpointError, CoAtNet, convert_checkpoint, resolve_cfg
from coatnet_zoo.convert import find_network, read_checkpoint

FIXTURE = DATA / 'chinhsuanwu_digits_64.pth'

# Derandomised: the same cases every time.
FUZZ = settings(
    max_examples=int(os.environ.get('COATNET_SOAK', '500')),
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
_DTYPES = ['BOOL', 'U8', 'I8', 'F8_E4M3', 'F8_E5M2', 'F8_E8M0', 'F4', 'F6_E2M3', 'C64', 'I16', 'U16', 'F16', 'BF16',
           'I32', 'U32', 'F32', 'F64', 'I64', 'U64', 'F33', '']  # fmt: skip
_NUMBERS = st.integers(-2, 40) | st.sampled_from([2**31, 2**32, 2**63, 2**64, 10**30])
_NAMES = st.sampled_from(
    ['w', '', 's0.0.0.weight', 'fc.weight', 'module.fc.weight', 'stem.conv1.weight', '__metadata__']
)
_JSON = st.recursive(st.none() | st.booleans() | _NUMBERS | st.text(max_size=4), lambda s: st.lists(s, max_size=3))
_TENSORS = st.fixed_dictionaries(
    dict(
        dtype=st.sampled_from(_DTYPES) | _JSON,
        shape=st.lists(_NUMBERS, max_size=4) | _JSON,
        data_offsets=st.lists(_NUMBERS, min_size=2, max_size=2) | _JSON,
    )
)
_HEADERS = st.dictionaries(_NAMES | st.text(max_size=4), _TENSORS | _JSON, max_size=4)


@pytest.fixture(scope='module')
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """In memory, where there is such a place: thousands of files."""
    shm = Path('/dev/shm')
    folder = tmp_path_factory.mktemp('fuzz') if not os.access(shm, os.W_OK) else shm / f'coatnet-zoo-{os.getpid()}'
    folder.mkdir(exist_ok=True)
    yield folder / 'a.safetensors'
    shutil.rmtree(folder)


def only_our_error(call: Callable[[], object]) -> None:
    try:
        call()
    except CheckpointError as e:
        assert '\n' not in str(e)


@FUZZ
@given(
    header=_HEADERS | _JSON | st.binary(max_size=40),
    data=st.binary(max_size=40),
    claim=st.none() | st.none() | _NUMBERS.filter(lambda n: 0 <= n < 2**64),
)
def test_fuzzed_headers(fuzzed: Path, header: Any, data: bytes, claim: int | None) -> None:
    fuzzed.write_bytes(image_of(header, data, claim))
    only_our_error(lambda: read_checkpoint(fuzzed))


_STATE_DICT = {
    k.removeprefix('module.'): v for k, v in torch.load(FIXTURE, weights_only=True)['model_state_dict'].items()
}
_KEYS = sorted(_STATE_DICT)
_OTHER = CoAtNet(resolve_cfg('coatnet_0', 'paper'), device='meta')
_CHANGES = st.lists(
    st.tuples(
        st.sampled_from(_KEYS),
        st.sampled_from(['drop', 'rename', 'prefix', 'reshape', 'resize', 'type', 'scalar', 'empty', 'object']),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=3,
)


def changed(changes: list[tuple[str, str, int]]) -> dict[str, Any]:
    """The digits checkpoint with some tensors not as they should be."""
    state_dict: dict[str, Any] = dict(_STATE_DICT)
    for key, what, n in changes:
        value = state_dict.pop(key, None)
        if what != 'drop' and isinstance(value, torch.Tensor):
            key, value = _change(key, value, what, n)
            state_dict[key] = value
    return state_dict


def _change(key: str, value: torch.Tensor, what: str, n: int) -> tuple[str, Any]:
    match what:
        case 'rename':
            return key.replace(str(n), str(n + 1)) if str(n) in key else key[: len(key) - n], value
        case 'prefix':
            return ['module.', 'model.', 'x.', '.', 's9.', 's1.0.'][n] + key, value
        case 'reshape':
            return key, value.reshape(-1) if n < 3 else value[None]
        case 'resize':
            return key, value[:n] if value.ndim else value
        case 'type':
            types = [torch.int8, torch.float64, torch.bool, torch.complex64, torch.half, torch.int64]
            return key, value.to(types[n])
        case 'scalar':
            return key, torch.tensor(n)
        case 'empty':
            return key, torch.empty((0,) * n)
        case _:
            return key, [None, n, 'x', [value], {}, ()][n]


_BUILT: dict[str, torch.nn.Module] = {}
_create_model = timm.create_model


def _build_once(*args: Any, **kwargs: Any) -> torch.nn.Module:
    """Building takes most of the time; all that is in a model is replaced by what is loaded."""
    call = repr((args, kwargs))
    if call not in _BUILT:
        _BUILT[call] = _create_model(*args, **kwargs)
    return _BUILT[call]


@FUZZ
@given(changes=_CHANGES)
def test_fuzzed_keys(fuzzed: Path, changes: list[tuple[str, str, int]]) -> None:
    """Converted, but for reading and writing files, and loaded into another network."""
    out = fuzzed.with_name('out')
    with (
        mock.patch('coatnet_zoo.convert.convert.read_checkpoint', lambda src, *options: find_network(changed(changes))),
        mock.patch('coatnet_zoo.convert.convert._write'),
        mock.patch('coatnet_zoo.convert.source.timm.create_model', _build_once),
    ):
        only_our_error(lambda: convert_checkpoint('a.pth', out))
    try:
        _OTHER.load_state_dict(changed(changes))
    except RuntimeError as e:
        # torch itself says what is missing or of the wrong shape.
        assert isinstance(e, CheckpointError) or 'Error(s) in loading state_dict' in str(e), e
