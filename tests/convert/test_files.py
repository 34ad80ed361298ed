"""Files that are damaged, hostile or irregular: refused by a one-line error before anything in them is used."""

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from checkpoint_bytes import FIXTURE, STATE_DICT, archive, records, refusal, saved, write
from command_line import output_of

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


def legacy(count: bytes) -> bytes:
    return saved(dict(a=torch.zeros(77)), _use_new_zipfile_serialization=False).replace(b'KM', count)


TORCH_FILES: dict[str, Callable[[], bytes]] = {
    'a record that is short': lambda: with_part(FIRST, PARTS[FIRST][:-4]),
    'a flipped bit': lambda: damaged(9, b'\x41'),
    'a zeroed range': lambda: damaged(128, bytes(64)),
    'two records of one name': lambda: archive([*PARTS.items(), (FIRST, bytes(256))]),
    'a missing record': lambda: archive([(n, d) for n, d in PARTS.items() if n != FIRST]),
    'no pickle': lambda: archive([(n, d) for n, d in PARTS.items() if n != PICKLE]),
    'compressed': lambda: archive(PARTS.items(), zipfile.ZIP_DEFLATED),
    'a compressed pickle of 100 MB': lambda: archive([(PICKLE, bytes(10**8))], zipfile.ZIP_DEFLATED),
    'an unknown byte order': lambda: with_part(BYTE_ORDER, b'middle'),
    'a tensor beyond the record': lambda: with_count(b'K\x7f'),
    'a storage of a negative length': lambda: with_count(b'J' + struct.pack('<i', -64)),
    'a pickle without an end': lambda: with_part(PICKLE, b'\x80\x02}'),
    'a legacy file that claims 8 GB': lambda: legacy(b'J' + struct.pack('<i', 2**31 - 1)),
    'a pickle': lambda: pickle.dumps({'a': 1}),
}


@pytest.mark.parametrize('case', TORCH_FILES)
def test_torch_files(case: str, tmp_path: Path) -> None:
    assert 'corrupt or truncated torch checkpoint' in refusal(write(tmp_path, TORCH_FILES[case]()))


def test_a_sound_archive_is_read(tmp_path: Path) -> None:
    read = read_checkpoint(write(tmp_path, archive(PARTS.items()))).tensors
    assert all(torch.equal(read[k], v) for k, v in SMALL.items())


def test_damage_is_seen_by_every_way_that_this_package_opens(tmp_path: Path) -> None:
    image = bytearray(FIXTURE.read_bytes())
    image[len(image) // 2] ^= 1
    file = write(tmp_path, bytes(image))
    assert 'data/154 is damaged' in refusal(file)
    with pytest.raises(CheckpointError, match='data/154 is damaged'):
        timm.create_model('coatnet_0', impl='paper', pretrained=True, pretrained_cfg_overlay=dict(file=str(file)))


# Sound files of another format, and of another name.

OTHERS = {
    'a page': (b'<!DOCTYPE html><html>404</html>', 'is a web page; download the file itself'),
    'a pointer': (b'version https://git-lfs.github.com/spec/v1\noid sha256:1', '`git lfs pull`'),
    'an archive': (b'\x1f\x8b\x08\0', 'is a gzip archive; unpack it'),
    'an array': (b'\x93NUMPY\x01\0', 'is a NumPy array'),
    'arrays': (archive([('a.npy', b'')]), 'holds NumPy arrays'),
    'a .keras file': (archive([('model.weights.h5', b'')]), 'save it as .h5'),
    'an ONNX file': (b'\x08\x08\x12\x07pytorch', 'is an ONNX file'),
    'an index': (b'{"metadata": {}, "weight_map": {}}', 'perhaps the index of a sharded checkpoint'),
}


@pytest.mark.parametrize('case', OTHERS)
def test_sound_files_of_another_format_are_called_what_they_are(case: str, tmp_path: Path) -> None:
    content, words = OTHERS[case]
    message = refusal(write(tmp_path, content))
    assert words in message and 'corrupt' not in message


@pytest.mark.parametrize('ending', ['.h5', '.pkl', '.SAFETENSORS', '', '.safetensors', '.pth'])
def test_the_content_decides_and_not_the_name(ending: str, tmp_path: Path) -> None:
    tensors = safetensors.torch.save({k: v.contiguous() for k, v in STATE_DICT.items()})
    for content in (saved(STATE_DICT), saved(STATE_DICT, _use_new_zipfile_serialization=False), tensors):
        (file := tmp_path / f'best{ending}').write_bytes(content)
        assert read_checkpoint(file).tensors.keys() == STATE_DICT.keys()


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
    'nothing': lambda path: None,
}


@pytest.mark.parametrize('ending', ['pth', 'safetensors', 'h5'])
@pytest.mark.parametrize('case', IRREGULAR)
def test_only_regular_files_are_opened(case: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f'a.{ending}'
    IRREGULAR[case](path)
    words = 'has no config.json of timm' if case == 'folder' else 'There is no file'
    assert words in refusal(path)


@pytest.mark.parametrize('config', [None, '{"architectures": ["CoAtNet"]}'], ids=['accelerate', 'the Trainer'])
def test_a_folder_of_weights_alone_is_refused_with_a_call_that_works(config: str | None, tmp_path: Path) -> None:
    (folder := tmp_path / 'checkpoint-500').mkdir()
    (folder / 'model.safetensors').write_bytes(safetensors.torch.save(STATE_DICT))
    if config:
        (folder / 'config.json').write_text(config)
    call = refusal(folder).partition('coatnet-zoo ')[2].removesuffix('.').replace('DST', str(tmp_path / 'out'))
    assert 'wrote' in output_of(*call.split())


@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
def test_a_name_that_is_not_utf8_is_not_called_damage(ending: str, tmp_path: Path) -> None:
    (path := tmp_path / f'caf\udce9.{ending}').write_bytes(b'')
    assert 'has a name that is not UTF-8; rename it' in refusal(path)


@pytest.mark.parametrize('name', ['a\0b.pth', 'x' * 5000 + '.pth', 'a\nb.pth', ''])
def test_odd_names_of_files(name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 700
