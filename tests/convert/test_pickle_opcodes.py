"""Pickles that no training script writes: nothing in them is executed, and their sizes are not believed."""

import io
import pickle
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_bytes import STATE_DICT, saved, write

from coatnet_zoo import CheckpointError
from coatnet_zoo.convert import read_checkpoint


def text(value: str) -> bytes:
    return b'X' + struct.pack('<I', len(value)) + value.encode()


def named(module: str, name: str) -> bytes:
    return f'c{module}\n{name}\n'.encode()


def with_value(value: bytes) -> bytes:
    """The file of a small network, whose first key has the value that these opcodes leave on the stack."""
    with zipfile.ZipFile(io.BytesIO(saved(STATE_DICT))) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in parts if name.endswith('data.pkl'))
    body = parts[name]
    assert body[:3] == b'\x80\x02}' and b'(' in body[:8], body[:8]
    at = body.index(b'(') + 1
    parts[name] = body[:at] + text('first') + value + body[at:]
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
    return file.getvalue()


HUGE = b'\x8a\x06' + (10**13).to_bytes(6, 'little')
DOUBLE = b'2\x86'  # a pair of the last object and itself
MKDIR = text('executed') + b'\x85'

# Values that are read as plain data, or not at all.
HARMLESS: dict[str, bytes] = {
    'a function': named('os', 'mkdir'),
    'a call': named('os', 'mkdir') + MKDIR + b'R',
    'a call of a built-in': named('builtins', 'exec') + text('import os; os.mkdir("executed")') + b'\x85R',
    'a call of a built-in of Python 2': named('__builtin__', 'eval') + text('os.mkdir("executed")') + b'\x85R',
    'a call by name on the stack': text('os') + text('mkdir') + b'\x93' + MKDIR + b'R',
    'an instance': b'(' + text('executed') + b'ios\nmkdir\n',
    'an object': b'(' + named('os', 'mkdir') + text('executed') + b'o',
    'a new object': named('os', 'mkdir') + MKDIR + b'\x81',
    'a new object with names': named('os', 'mkdir') + MKDIR + b'}\x92',
    'a state': named('a', 'B') + b')\x81}' + text('__class__') + named('os', 'mkdir') + b'sb',
    'items': named('a', 'B') + b')\x81(' + named('os', 'mkdir') + MKDIR + b'e',
    'a byte array of 10 TB': named('builtins', 'bytearray') + HUGE + b'\x85R',
    'an encoding': named('_codecs', 'encode') + text('x') + text('os') + b'\x86R',
    'a path of Windows': named('pathlib', 'WindowsPath') + MKDIR + b'R',
}
# Values after which a file is not read.
REFUSED: dict[str, bytes] = {
    'a storage of 10 TB': named('torch.storage', 'UntypedStorage') + HUGE + b'\x85R',
    'a tensor of 10 TB': named('torch', 'FloatTensor') + HUGE + b'\x85R',
    'another tensor of 10 TB': named('torch', 'Tensor') + HUGE + b'\x85\x81',
    'a tensor by a function of the file': named('torch._tensor', '_rebuild_from_type_v2')
    + b'('
    + named('os', 'mkdir')
    + named('torch', 'Tensor')
    + MKDIR
    + b'}tR',
    'a call of a number': b'K\x01)R',
    'a call of a dictionary': b'})R',
    'a call of a list': b'])R',
    'an object of a number': b'K\x01)\x81',
    'the state of a number': b'K\x01}b',
    'items of a number': b'K\x01(K\x02e',
    'pairs of a number': b'K\x01(K\x02K\x03u',
    'half a pair': b'}(K\x02u',
    'a pair of pairs of pairs': b'})' + DOUBLE * 40 + b'K\x01s',
    'a set of pairs of pairs': named('builtins', 'set') + b'])' + DOUBLE * 40 + b'a\x85R',
    'ordered pairs of pairs': named('collections', 'OrderedDict') + b']])' + DOUBLE * 40 + b'aK\x01aa\x85R',
    'a list as a key': b'}]K\x01s',
    'an extension': b'\x82\x01',
    'a buffer outside of the file': b'\x97',
    'a reference by text': b'Pstorage\n',
    'a string that is too long': b'X' + struct.pack('<I', 2**32 - 1) + b'a',
    'bytes that are too long': b'\x8e' + struct.pack('<Q', 2**63) + b'a',
    'a number that is too long': b'\x8b' + struct.pack('<i', 2**31 - 1) + b'a',
    'a number of 10,000 digits': b'L' + b'9' * 10_000 + b'L\n',
    'no mark': b't' * 5,
    'nothing to take': b'0' * 500,
}


def read(content: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(folder)
    start = time.monotonic()
    try:
        return read_checkpoint(write(folder, content))
    finally:
        assert time.monotonic() - start < 5
        assert [path.name for path in folder.iterdir()] == ['a.pth']


@pytest.mark.parametrize('case', HARMLESS)
def test_what_is_not_executed_does_not_hurt(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = read(with_value(HARMLESS[case]), tmp_path, monkeypatch).tensors
    assert all(torch.equal(tensors[name], value) for name, value in STATE_DICT.items())


@pytest.mark.parametrize('case', REFUSED)
def test_what_no_script_writes_is_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError) as e:
        read(with_value(REFUSED[case]), tmp_path, monkeypatch)
    message = str(e.value)
    assert 'a.pth is not a' in message and message.isprintable() and message.endswith('.') and len(message) < 700


@pytest.mark.parametrize('protocol', range(2, 6))
def test_every_protocol_of_torch_is_read(protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = dict(sd=STATE_DICT, extra=[{1, 2}, frozenset('a'), b'x', 2**70, -1, 0.5, 'ä' * 300, (1, 2, 3, 4), None])
    tensors = read(saved(content, pickle_protocol=protocol), tmp_path, monkeypatch).tensors
    assert tensors.keys() == STATE_DICT.keys()


def test_many_names_for_one_dictionary_are_searched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = {f'a{i}.{j}': 1 for i in range(100) for j in range(100)}
    with pytest.raises(CheckpointError, match='no state dict'):
        read(saved({f'k{i}': shared for i in range(10_000)}), tmp_path, monkeypatch)


def test_deep_names_are_searched_in_linear_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {f'{"a." * 500}{i}': torch.ones(1) for i in range(2000)}
    assert len(read(saved(names), tmp_path, monkeypatch).tensors) == 2000


def test_a_plain_pickle_is_not_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match='is not a'):
        read(pickle.dumps({'a': 1}), tmp_path, monkeypatch)
