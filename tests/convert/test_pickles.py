"""Pickles: nothing in them is executed, and whatever lies beside a state dict is read past."""

import argparse
import collections
import datetime
import enum
import functools
import os
import random
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_bytes import STATE_DICT, archive, records, saved, write
from command_line import refusal as refused

from coatnet_zoo import CheckpointError
from coatnet_zoo.convert import read_checkpoint

# The first tensors of a real checkpoint.
TENSORS = dict(list(STATE_DICT.items())[:20])
LEGACY = dict(_use_new_zipfile_serialization=False)
FORMATS = pytest.mark.parametrize('options', [{}, dict(pickle_protocol=4), LEGACY], ids=['zip', 'protocol 4', 'legacy'])
ZIPPED = pytest.mark.parametrize('zipped', [True, False])
Read = Callable[[bytes], dict[str, torch.Tensor]]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Read]:
    """Reads the tensors of a file in an empty folder, within seconds, without a trace of anything executed."""
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    yield lambda content: read_checkpoint(write(tmp_path, content)).tensors
    assert time.monotonic() - start < 20
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']


def is_state_dict(tensors: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[k], v) for k, v in TENSORS.items())


# Objects that training scripts save beside the weights.


class Mode(enum.Enum):
    FAST = 1


class Attributes(dict):
    """As the configurations of training frameworks are."""


class Subclass(torch.Tensor):
    pass


def scheduler() -> Any:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(max, 0))


OBJECTS: dict[str, Callable[[], Any]] = {
    'a path': lambda: Path('runs/best'),
    'a scheduler': lambda: torch.optim.lr_scheduler.StepLR(scheduler().optimizer, 3),
    'an optimizer': lambda: scheduler().optimizer,
    'arguments': lambda: argparse.Namespace(lr=0.1, out=Path('runs')),
    'a numpy array': lambda: np.arange(5),
    'a numpy number': lambda: np.float64(0.5),
    'a random state': random.getstate,
    'a dictionary with a default': lambda: collections.defaultdict(list, a=[1]),
    'a counter': lambda: collections.Counter('aab'),
    'a date': lambda: datetime.datetime(2024, 1, 2),
    'a function': lambda: np.mean,
    'a device': lambda: torch.device('cuda'),
    'a loss': lambda: torch.nn.CrossEntropyLoss(weight=torch.ones(10)),
    'callbacks of Lightning': lambda: {'ModelCheckpoint': dict(score=torch.tensor(0.5), path=Path('a.ckpt'))},
    'an optimizer of fastai': lambda: dict(state=[dict(mom=torch.ones(2))], hypers=[dict(lr=np.float64(0.1))]),
    'a choice': lambda: Mode.FAST,
    'a configuration': lambda: Attributes(a=Attributes(b=1)),
    'a module': lambda: torch.nn.Linear(2, 2),
    'a type': lambda: torch.float16,
    'a sparse tensor': lambda: torch.eye(3).to_sparse(),
    'a tensor of a subclass': lambda: torch.ones(2).as_subclass(Subclass),
    'integers without sign': lambda: torch.ones(2, dtype=torch.uint16),
    'a slice and a set': lambda: [slice(3), {1, 2}, frozenset('a'), b'x', 2**70, 'ä' * 300, (1, 2, 3, 4), 1j],
}


@pytest.mark.parametrize('case', OBJECTS)
@FORMATS
def test_objects_beside_the_weights_are_read_past(case: str, options: dict, read: Read) -> None:
    content = {'first': OBJECTS[case](), 'state_dict': TENSORS, 'last': [OBJECTS[case]()]}
    assert is_state_dict(read(saved(content, **options)))


# Whole models, and objects that would be executed.


class Executed:
    def __reduce__(self) -> tuple:
        return os.mkdir, ('executed',)


class Restored:
    """A model that is built by a call, and not from its layers."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.state_dict = lambda: tensors
        self.tensors = tensors

    def __reduce__(self) -> tuple:
        return Restored, (self.tensors,)


WHOLE: dict[str, tuple[Any, str]] = {
    'a call': (Executed(), 'mkdir'),
    'a call under a key': ({'state_dict': Executed()}, 'mkdir'),
}


@pytest.mark.parametrize('case', WHOLE)
@ZIPPED
def test_calls_are_refused_with_a_way_out(case: str, zipped: bool, read: Read) -> None:
    content, word = WHOLE[case]
    with pytest.raises(CheckpointError) as caught:
        read(saved(content, _use_new_zipfile_serialization=zipped))
    message = str(caught.value)
    assert word in message and 'executed' in message and 'torch.save(model.state_dict()' in message


def test_the_code_in_the_message_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (Restored(TENSORS), {'model': Restored(TENSORS)}):
        torch.save(content, 'a.pth')
        message = refused('convert', 'a.pth', 'out')
        exec(message[message.index('model = ') : message.rindex(')') + 1], dict(torch=torch))
        assert torch.load('weights.pth', weights_only=True).keys() == TENSORS.keys()


# Pickles that no script writes.


def text(value: str) -> bytes:
    return b'X' + struct.pack('<I', len(value)) + value.encode()


def named(module: str, name: str) -> bytes:
    return f'c{module}\n{name}\n'.encode()


def with_value(value: bytes, zipped: bool) -> bytes:
    """The file of a small network, whose first key has the value that these opcodes leave on the stack."""
    first = text(next(iter(TENSORS)))
    if not zipped:
        return saved(TENSORS, **LEGACY).replace(first, text('first') + value + first, 1)
    parts = records(TENSORS)
    name = next(name for name in parts if name.endswith('data.pkl'))
    return archive({**parts, name: parts[name].replace(first, text('first') + value + first, 1)}.items())


HUGE = b'\x8a\x06' + (10**13).to_bytes(6, 'little')
MKDIR = text('executed') + b'\x85'
MKDIR_NAME = named('os', 'mkdir')
REBUILD, FROM_TYPE = named('torch._utils', '_rebuild_tensor_v2'), named('torch._tensor', '_rebuild_from_type_v2')

# Values that are read past.
HARMLESS: dict[str, bytes] = {
    'a function': named('os', 'mkdir'),
    'a module that prints': named('this', 's'),
    'a call': named('os', 'mkdir') + MKDIR + b'R',
    'a call of a built-in': named('builtins', 'exec') + text('import os; os.mkdir("executed")') + b'\x85R',
    'a call of a built-in of Python 2': named('__builtin__', 'eval') + text('os.mkdir("executed")') + b'\x85R',
    'a call by name on the stack': text('os') + text('mkdir') + b'\x93' + MKDIR + b'R',
    'an instance': b'(' + text('executed') + b'ios\nmkdir\n',
    'an object': b'(' + named('os', 'mkdir') + text('executed') + b'o',
    'a new object': named('os', 'mkdir') + MKDIR + b'\x81',
    'a new object with names': named('os', 'mkdir') + MKDIR + b'}\x92',
    'a state': named('a', 'B') + b')\x81}' + text('__class__') + named('os', 'mkdir') + b'sb',
    'a state of slots': named('a', 'B') + b')\x81N}' + text('__setstate__') + named('os', 'mkdir') + b's\x86b',
    'items': named('a', 'B') + b')\x81(' + named('os', 'mkdir') + MKDIR + b'e',
    'an attribute of a function of torch': REBUILD + b'N}' + text('__defaults__') + b'K\x01\x85s\x86b',
    'a path of Windows': named('pathlib', 'WindowsPath') + MKDIR + b'R',
    'a byte array of 10 TB': named('builtins', 'bytearray') + HUGE + b'\x85R',
    'an encoding': named('_codecs', 'encode') + text('x') + text('os') + b'\x86R',
    'a tensor of 10 TB': named('torch', 'FloatTensor') + HUGE + b'\x85R',
    'another tensor of 10 TB': named('torch', 'Tensor') + HUGE + b'\x85\x81',
}
# Values after which a file is not read.
REFUSED: dict[str, bytes] = {
    'a storage of 10 TB': named('torch.storage', 'UntypedStorage') + HUGE + b'\x85R',
    'a tensor by a function of the file': FROM_TYPE + b'(' + MKDIR_NAME + named('torch', 'Tensor') + MKDIR + b'}tR',
    'an attribute of a class': named('collections', 'OrderedDict') + b'N}' + text('pop') + b'K\x01s\x86b',
    'a call of a number': b'K\x01)R',
    'an object of a number': b'K\x01)\x81',
    'the state of a number': b'K\x01}b',
    'half a pair': b'}(K\x02u',
    'a list as a key': b'}]K\x01s',
    'an object from a registry': b'\x82\x01',
    'a number in the memo': named('a', 'B') + b'r' + struct.pack('<I', 2**32 - 1),
    'a missing number in the memo': b'j' + struct.pack('<I', 2**31),
    'a buffer outside of the file': b'\x97',
    'a reference by text': b'Pstorage\n',
    '2,000 classes': b'(' + b''.join(named('a', f'B{i}') for i in range(2000)) + b'l',
    'a string that is too long': b'X' + struct.pack('<I', 2**32 - 1) + b'a',
    'a number that is too long': b'\x8b' + struct.pack('<i', 2**31 - 1) + b'a',
    'a number of 10,000 digits': b'L' + b'9' * 10_000 + b'L\n',
    'no opcode': b'\xff\xfe\xfd',
    'nothing to take': b'0' * 500,
}


@pytest.mark.parametrize('case', HARMLESS)
@ZIPPED
def test_nothing_is_executed(case: str, zipped: bool, read: Read) -> None:
    assert is_state_dict(read(with_value(HARMLESS[case], zipped)))
    assert 'this' not in sys.modules and torch._utils._rebuild_tensor_v2.__defaults__ == (None,)


@pytest.mark.parametrize('case', REFUSED)
@ZIPPED
def test_what_no_script_writes_is_refused(case: str, zipped: bool, read: Read) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(with_value(REFUSED[case], zipped))
    message = str(caught.value)
    assert 'a.pth' in message and message.isprintable() and message.endswith('.') and len(message) < 700
