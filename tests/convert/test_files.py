"""Files that are damaged, hostile or irregular: refused by a one-line error before anything in them is used."""

import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from checkpoint_bytes import FIXTURE, STATE_DICT, archive, records, refusal, saved, write
from command_line import refusal as refused
from safetensors.torch import save_file
from safetensors_bytes import image_of, tensor

from coatnet_zoo import CheckpointError
from coatnet_zoo.convert import read_checkpoint

# Files of torch.save.


SMALL = {'a.weight': torch.arange(64.0), 'b.weight': torch.arange(64.0) + 100}
PARTS = records(SMALL)
FIRST = next(name for name in PARTS if name.endswith('/data/0'))
PICKLE = next(name for name in PARTS if name.endswith('/data.pkl'))
BYTE_ORDER = PICKLE.replace('data.pkl', 'byteorder')


def with_part(name: str, data: bytes) -> bytes:
    return archive({**PARTS, name: data}.items())


def damaged(offset: int, change: bytes) -> bytes:
    """Bytes of the first tensor, changed without a new checksum."""
    image = bytearray(archive(PARTS.items()))
    at = image.index(PARTS[FIRST]) + offset
    image[at : at + len(change)] = change
    return bytes(image)


def with_count(count: bytes) -> bytes:
    """Another number of values in a storage than 64."""
    return with_part(PICKLE, PARTS[PICKLE].replace(b'K@', count))


def tar_file() -> bytes:
    """A file in the format of torch 0.1, which torch would extract."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as opened:
        for name in ('storages', 'tensors', 'pickle'):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, str(FIXTURE)
            opened.addfile(member)
    return file.getvalue()


def legacy(count: bytes) -> bytes:
    return saved(dict(a=torch.zeros(77)), _use_new_zipfile_serialization=False).replace(b'KM', count)


TORCH_FILES: dict[str, Callable[[], bytes]] = {
    'a record that is short': lambda: with_part(FIRST, PARTS[FIRST][:-4]),
    'a record that is long': lambda: with_part(FIRST, PARTS[FIRST] + b'1234'),
    'an empty record': lambda: with_part(FIRST, b''),
    'a flipped bit': lambda: damaged(9, b'\x41'),
    'a zeroed range': lambda: damaged(128, bytes(64)),
    'two records of one name': lambda: archive([*PARTS.items(), (FIRST, bytes(256))]),
    'a missing record': lambda: archive([(n, d) for n, d in PARTS.items() if n != FIRST]),
    'no pickle': lambda: archive([(n, d) for n, d in PARTS.items() if n != PICKLE]),
    'no records': lambda: archive([]),
    'compressed': lambda: archive(PARTS.items(), zipfile.ZIP_DEFLATED),
    'a compressed pickle of 100 MB': lambda: archive([(PICKLE, bytes(10**8))], zipfile.ZIP_DEFLATED),
    'an unknown byte order': lambda: with_part(BYTE_ORDER, b'middle'),
    'a tensor beyond the record': lambda: with_count(b'K\x7f'),
    'a storage of a negative length': lambda: with_count(b'J' + struct.pack('<i', -64)),
    'a pickle without an end': lambda: with_part(PICKLE, b'\x80\x02}'),
    'nothing but a signature': lambda: b'PK\x03\x04',
    'a legacy file that claims 8 GB': lambda: legacy(b'J' + struct.pack('<i', 2**31 - 1)),
    'a legacy file that claims 40 TB': lambda: legacy(b'\x8a\x06' + (10**13).to_bytes(6, 'little')),
    'a pickle': lambda: pickle.dumps({'a': 1}),
    'a pickle of text': lambda: pickle.dumps({'a': 1}, protocol=0),
    'a tar archive': tar_file,
    'a page': lambda: b'<!DOCTYPE html><html>404</html>',
    'half an opcode': lambda: b'\x80\x02',
    'nothing': lambda: b'',
}


@pytest.mark.parametrize('case', TORCH_FILES)
def test_torch_files(case: str, tmp_path: Path) -> None:
    assert 'corrupt or truncated torch checkpoint' in refusal(write(tmp_path, TORCH_FILES[case]()))


def test_a_sound_archive_is_read(tmp_path: Path) -> None:
    read = read_checkpoint(write(tmp_path, archive(PARTS.items()))).tensors
    assert all(torch.equal(read[k], v) for k, v in SMALL.items())


@pytest.mark.parametrize('part', [0.0005, 0.01, 0.3, 0.9, 0.99999])
@pytest.mark.parametrize('kind', ['zip', 'legacy', 'safetensors'])
def test_truncated_files(kind: str, part: float, tmp_path: Path) -> None:
    file = tmp_path / ('a.safetensors' if kind == 'safetensors' else 'a.pth')
    if kind == 'safetensors':
        save_file(STATE_DICT, file)
    else:
        torch.save(STATE_DICT, file, _use_new_zipfile_serialization=kind == 'zip')
    os.truncate(file, int(file.stat().st_size * part))
    assert 'a corrupt or truncated ' in refusal(file)


def test_damage_is_seen_by_every_way_that_this_package_opens(tmp_path: Path) -> None:
    image = bytearray(FIXTURE.read_bytes())
    image[len(image) // 2] ^= 1
    file = write(tmp_path, bytes(image))
    assert 'checksum' in refusal(file)
    with pytest.raises(CheckpointError, match='checksum'):
        timm.create_model('coatnet_0', impl='paper', pretrained=True, pretrained_cfg_overlay=dict(file=str(file)))


# Headers of safetensors.

SAFETENSORS = {
    'empty': b'',
    'header of 2^64 - 1': image_of({'w': tensor()}, claim=2**64 - 1),
    'header that is no JSON': image_of(b'not json'),
    'nested header': image_of(b'{"a":' * 10_000 + b'1' + b'}' * 10_000),
    'unknown dtype': image_of({'w': tensor('F33')}),
    'shape that overflows': image_of({'w': tensor(shape=[2**32, 2**32])}),
    'offsets that overlap': image_of({'v': tensor(), 'w': tensor()}),
    'data left over': image_of({'w': tensor()}, data=b'\0' * 32),
    'data cut short': image_of({'w': tensor()}, data=b'\0' * 15),
    'a torch file': FIXTURE.read_bytes(),
}


@pytest.mark.parametrize('case', SAFETENSORS)
def test_safetensors(case: str, tmp_path: Path) -> None:
    file = tmp_path / 'a.safetensors'
    file.write_bytes(SAFETENSORS[case])
    assert 'a.safetensors is a corrupt or truncated safetensors file' in refused('convert', file, tmp_path / 'out')
    assert [path.name for path in tmp_path.iterdir()] == ['a.safetensors']


def test_a_folder_is_not_loaded_from_a_pickle(tmp_path: Path) -> None:
    timm.models.save_for_hf(timm.create_model('coatnet_atto', num_classes=3), tmp_path, safe_serialization=True)
    weights, name = tmp_path / 'model.safetensors', f'local-dir:{tmp_path}'
    weights.write_bytes(saved({'stem.conv1.weight': torch.ones(1)}))
    with pytest.raises(CheckpointError, match='a corrupt or truncated safetensors file'):
        timm.create_model(name, pretrained=True)
    for pickled in ('pytorch_model.bin', 'model.pth', 'a.pth.tar'):
        weights = weights.rename(tmp_path / pickled)
        with pytest.raises(CheckpointError, match='safetensors'):
            timm.create_model(name, pretrained=True)


# Paths that are no regular files.


IRREGULAR: dict[str, Callable[[Path], Any]] = {
    'folder': Path.mkdir,
    'pipe': os.mkfifo,
    'endless': lambda path: path.symlink_to('/dev/zero'),
    'link to nothing': lambda path: path.symlink_to('nowhere'),
    'nothing': lambda path: None,
}


@pytest.mark.parametrize('ending', ['pth', 'safetensors', 'h5'])
@pytest.mark.parametrize('case', IRREGULAR)
def test_only_regular_files_are_opened(case: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f'a.{ending}'
    IRREGULAR[case](path)
    assert 'There is no file' in refusal(path)
    with pytest.raises(CheckpointError, match='There is no file '):
        timm.create_model('coatnet_0', impl='paper', pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))


@pytest.mark.parametrize('name', ['a\0b.pth', 'x' * 5000 + '.pth', 'a\nb.pth', ''])
def test_odd_names_of_files(name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 700
