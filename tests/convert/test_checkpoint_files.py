"""Torch files that are damaged or hostile, and files that are none: refused by one sentence."""

import io
import os
import pickle
import socket
import struct
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from checkpoint_bytes import FIXTURE, STATE_DICT, refusal, saved, write

from coatnet_zoo import CheckpointError
from coatnet_zoo.convert import read_checkpoint

# Archives.


def records(content: Any) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(saved(content))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(parts: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, 'w', compression) as archive:
        warnings.simplefilter('ignore')  # two records of one name
        for name, data in parts:
            archive.writestr(name, data)
    return file.getvalue()


SMALL = {'a.weight': torch.arange(64.0), 'b.weight': torch.arange(64.0) + 100}
PARTS = records(SMALL)
FIRST = next(name for name in PARTS if name.endswith('/data/0'))
PICKLE = next(name for name in PARTS if name.endswith('/data.pkl'))


def with_part(name: str, data: bytes) -> bytes:
    return zipped([(n, data if n == name else d) for n, d in PARTS.items()])


def damaged(offset: int, change: bytes) -> bytes:
    """A byte of the first tensor, changed without a new checksum."""
    image = bytearray(zipped(list(PARTS.items())))
    at = image.index(PARTS[FIRST]) + offset
    image[at : at + len(change)] = change
    return bytes(image)


ARCHIVES: dict[str, Callable[[], bytes]] = {
    'a record that is short': lambda: with_part(FIRST, PARTS[FIRST][:-4]),
    'a record that is long': lambda: with_part(FIRST, PARTS[FIRST] + b'1234'),
    'an empty record': lambda: with_part(FIRST, b''),
    'a flipped bit': lambda: damaged(9, b'\x41'),
    'a zeroed range': lambda: damaged(128, bytes(64)),
    'two records of one name': lambda: zipped([*PARTS.items(), (FIRST, bytes(256))]),
    'a missing record': lambda: zipped([(n, d) for n, d in PARTS.items() if n != FIRST]),
    'no pickle': lambda: zipped([(n, d) for n, d in PARTS.items() if n != PICKLE]),
    'compressed': lambda: zipped(list(PARTS.items()), zipfile.ZIP_DEFLATED),
    'a compressed pickle of 100 MB': lambda: zipped([(PICKLE, bytes(10**8))], zipfile.ZIP_DEFLATED),
    'an unknown byte order': lambda: zipped([*PARTS.items(), (PICKLE.replace('data.pkl', 'byteorder'), b'middle')]),
    'a tensor beyond the record': lambda: with_part(PICKLE, PARTS[PICKLE].replace(b'K@', b'K\x7f')),
}


@pytest.mark.parametrize('case', ARCHIVES)
def test_archives_that_are_not_whole(case: str, tmp_path: Path) -> None:
    assert 'not a whole torch checkpoint' in refusal(write(tmp_path, ARCHIVES[case]()))


def test_a_sound_archive_is_read(tmp_path: Path) -> None:
    read = read_checkpoint(write(tmp_path, zipped(list(PARTS.items())))).tensors
    assert all(torch.equal(read[k], v) for k, v in SMALL.items())


def test_an_archive_of_the_other_byte_order_is_read(tmp_path: Path) -> None:
    other = {'little': b'big', 'big': b'little'}[sys.byteorder]
    parts = {n: d for n, d in PARTS.items() if not n.endswith('byteorder')}
    for name in parts:
        if '/data/' in name:
            parts[name] = (
                torch.frombuffer(bytearray(parts[name]), dtype=torch.uint8).view(-1, 4).flip(1).numpy().tobytes()
            )
    image = zipped([*parts.items(), (PICKLE.replace('data.pkl', 'byteorder'), other)])
    read = read_checkpoint(write(tmp_path, image)).tensors
    assert all(torch.equal(read[k], v) for k, v in SMALL.items())


@pytest.mark.parametrize('way', ['convert', 'overlay'])
def test_damage_is_seen_by_every_way_that_this_package_opens(way: str, tmp_path: Path) -> None:
    image = bytearray(FIXTURE.read_bytes())
    image[len(image) // 2] ^= 1
    file = write(tmp_path, bytes(image))
    if way == 'convert':
        assert 'checksum' in refusal(file)
        return
    with pytest.raises(CheckpointError, match='checksum'):
        timm.create_model('coatnet_0', impl='chinhsuanwu', pretrained=True, pretrained_cfg_overlay=dict(file=str(file)))


@pytest.mark.parametrize('part', [0.0005, 0.01, 0.2, 0.5, 0.8, 0.99, 0.99999])
def test_truncated_legacy_files(part: float, tmp_path: Path) -> None:
    content = saved(STATE_DICT, _use_new_zipfile_serialization=False)
    assert 'torch' in refusal(write(tmp_path, content[: int(len(content) * part)]))


def test_a_legacy_file_that_claims_more_than_it_has(tmp_path: Path) -> None:
    content = saved(dict(a=torch.zeros(77)), _use_new_zipfile_serialization=False)
    assert content.count(b'KM') >= 1
    claim = content.replace(b'KM', b'J' + struct.pack('<i', 2**31 - 1))
    assert 'larger than the file' in refusal(write(tmp_path, claim))


# Pickles.


def pickled(*opcodes: bytes) -> bytes:
    return with_part(PICKLE, b'\x80\x02' + b''.join(opcodes) + b'.')


def nested(depth: int) -> dict:
    content: dict = dict(SMALL)
    for _ in range(depth):
        content = {'state_dict': content}
    return content


def bomb() -> bytes:
    """A tuple of two tuples of two tuples ..., 2^60 in all, as the key of a dictionary."""
    doubled = b''.join(b'h%c' % (i - 1) * 2 + b'\x86q%c' % i for i in range(1, 60))
    return pickled(b'}', b')q\x00', doubled, b'K\x01s')


PICKLES: dict[str, Callable[[], bytes]] = {
    'a dictionary in itself': lambda: pickled(b'}q\x00X', struct.pack('<I', 10), b'state_dict', b'h\x00s'),
    'a list in itself': lambda: pickled(b']q\x00h\x00a'),
    '5,000 dictionaries': lambda: pickled(
        b'}' * 5000, *[b'X' + struct.pack('<I', 10) + b'state_dict' + b'}s'], *[b'K\x01K\x02s']
    ),
    '100 wrappers': lambda: saved(nested(100)),
    'tuples without an end': bomb,
    'a string of 4 GB': lambda: pickled(b'X' + struct.pack('<I', 2**32 - 1) + b'a'),
    'a memo that is missing': lambda: pickled(b'j' + struct.pack('<I', 2**31)),
    'an empty stack': lambda: pickled(b'0' * 5, b's'),
    'no end': lambda: with_part(PICKLE, b'\x80\x02}'),
    'a storage of a negative length': lambda: with_part(
        PICKLE, PARTS[PICKLE].replace(b'K@', b'J' + struct.pack('<i', -64))
    ),
    'a persistent name that is none': lambda: pickled(b'K\x05Q'),
    'a number': lambda: saved(5),
    'names of every kind': lambda: saved({(1, 2): 1, 10**5000: 2, None: 3, 'x' * 10_000: 4, 'a\nb\x1b[31m': 5}),
    'bytes': lambda: pickled(b'\xff\xfe\xfd'),
    'tar': lambda: b'./'.ljust(512, b'\0') + bytes(1024),
    'a pickle of protocol 5': lambda: pickle.dumps({'a': 1}, protocol=5),
    'a pickle of text': lambda: pickle.dumps({'a': 1}, protocol=0),
}


@pytest.mark.parametrize('case', PICKLES)
def test_pickles_that_are_none(case: str, tmp_path: Path) -> None:
    start = time.monotonic()
    refusal(write(tmp_path, PICKLES[case]()))
    assert time.monotonic() - start < 5


def test_no_sparse_tensor_is_left_for_torch_to_check(tmp_path: Path) -> None:
    refusal(write(tmp_path, saved({**STATE_DICT, 'fc.weight': torch.eye(3).to_sparse()})))
    torch.save(STATE_DICT, tmp_path / 'sound.pth')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        torch.load(tmp_path / 'sound.pth', weights_only=True)


# Files that are none.


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))


IRREGULAR: dict[str, Callable[[Path], object]] = {
    'folder': Path.mkdir,
    'pipe': os.mkfifo,
    'endless': lambda path: path.symlink_to('/dev/zero'),
    'link to nothing': lambda path: path.symlink_to('nowhere'),
    'link to itself': lambda path: path.symlink_to(path),
    'socket': make_socket,
    'nothing': lambda path: None,
}


@pytest.mark.parametrize('ending', ['pth', 'safetensors', 'h5'])
@pytest.mark.parametrize('case', IRREGULAR)
def test_only_regular_files_are_opened(case: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # sockets have short names only
    path = Path(f'a.{ending}')
    IRREGULAR[case](path)
    with pytest.raises(CheckpointError, match='There is no file'):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match='There is no file'):
        timm.create_model('coatnet_0', impl='paper', pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))


@pytest.mark.parametrize('name', ['a\0b.pth', 'x' * 5000 + '.pth', 'a\nb.pth', ''])
def test_odd_names_of_files(name: str) -> None:
    with pytest.raises(CheckpointError) as e:
        read_checkpoint(name)
    assert str(e.value).isprintable() and len(str(e.value)) < 700
