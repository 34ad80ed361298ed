"""Where a conversion may write: only to a new place, or over what a conversion wrote and nobody changed."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from command_line import output_of, refusal
from paths import DATA
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from coatnet_zoo import CheckpointError, convert_checkpoint, files
from coatnet_zoo.convert import convert

FIXTURE = DATA / 'chinhsuanwu_digits_64.pth'
SAFE, CONFIG = 'model.safetensors', 'config.json'


@pytest.fixture(scope='module')
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('converted') / 'out'
    convert_checkpoint(FIXTURE, folder)
    return folder


def snapshot(folder: Path) -> dict[str, bytes | str | None]:
    """Everything below a folder: files with content, links with targets, folders and pipes."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob('*')):
        name = str(path.relative_to(folder))
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


def edit_config(folder: Path, **fields) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **fields}))


def transformers_model(folder: Path) -> None:
    (folder / CONFIG).write_text('{"architectures": ["BertModel"], "model_type": "bert"}')
    save_file({'w': torch.ones(2)}, folder / SAFE)


def saved_again(folder: Path) -> None:
    model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    save_for_hf(model, folder, safe_serialization=True)


def other_weights(folder: Path) -> None:
    tensors = load_file(folder / SAFE)
    tensors['head.fc.weight'] = tensors['head.fc.weight'] + 1
    save_file(tensors, folder / SAFE, metadata={'format': 'pt'})


def one_byte(folder: Path) -> None:
    content = bytearray((folder / SAFE).read_bytes())
    content[-5] ^= 1
    (folder / SAFE).write_bytes(content)


def link_for_weights(folder: Path) -> None:
    shutil.copy(folder / SAFE, folder.parent / 'weights')
    (folder / SAFE).unlink()
    (folder / SAFE).symlink_to(folder.parent / 'weights')


# What may have become of the folder of a conversion, or what else may be there.
NOT_OURS: dict[str, Callable[[Path], object]] = {
    'a transformers model': transformers_model,
    'fine-tuned and saved by timm': saved_again,
    'other weights': other_weights,
    'one byte of the weights': one_byte,
    'a README': lambda f: (f / 'README.md').write_text('my own'),
    'a hidden file': lambda f: (f / '.note').write_text('my own'),
    'a folder inside': lambda f: (f / 'runs').mkdir(),
    'labels added': lambda f: edit_config(f, label_names=list('0123456789')),
    'no mark': lambda f: edit_config(f, coatnet_zoo_conversion=None),
    'a mark of another type': lambda f: edit_config(f, coatnet_zoo_conversion=['crc32']),
    'a config that is a list': lambda f: (f / CONFIG).write_text('[]'),
    'a config that is no JSON': lambda f: (f / CONFIG).write_text('{'),
    'a config that is no UTF-8': lambda f: (f / CONFIG).write_bytes(b'"\xff"'),
    'a nested config': lambda f: (f / CONFIG).write_text('[' * 100_000),
    'a link for weights': link_for_weights,
    'no weights': lambda f: (f / SAFE).unlink(),
    'no config': lambda f: (f / CONFIG).unlink(),
    'an empty folder': lambda f: [p.unlink() for p in f.iterdir()],
    'a file': lambda f: (shutil.rmtree(f), f.write_text('my own')),
    'a pipe': lambda f: (shutil.rmtree(f), os.mkfifo(f)),
    'a link to a conversion': lambda f: (f.rename(f.with_name('real')), f.symlink_to(f.with_name('real'))),
    'a broken link': lambda f: (shutil.rmtree(f), f.symlink_to('nowhere')),
}


@pytest.mark.parametrize('kind', NOT_OURS)
def test_overwrite_replaces_nothing_but_an_unchanged_conversion(kind: str, converted: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    shutil.copytree(converted, out)
    NOT_OURS[kind](out)
    before = snapshot(tmp_path)
    message = refusal('convert', FIXTURE, out, '--overwrite')
    assert str(out) in message and ('not overwritten' in message or 'not replaced' in message)
    assert snapshot(tmp_path) == before
    assert 'exists already' in refusal('convert', FIXTURE, out)


def test_overwrite_replaces_a_conversion_and_its_copies(converted: Path, tmp_path: Path) -> None:
    shutil.copytree(converted, tmp_path / 'out')
    output_of('convert', FIXTURE, tmp_path / 'out', '--overwrite', '--name', 'second')
    assert timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).pretrained_cfg['tag'] == 'second'
    output_of('convert', FIXTURE, tmp_path / 'out', '--overwrite')
    assert snapshot(tmp_path / 'out') == snapshot(converted)
    assert [p.name for p in tmp_path.iterdir()] == ['out']


@pytest.mark.parametrize('src', [f'out/{SAFE}', 'out/../out/model.safetensors', 'link'])
def test_the_folder_of_the_source_is_not_replaced(src: str, converted: Path, tmp_path: Path) -> None:
    shutil.copytree(converted, tmp_path / 'out')
    (tmp_path / 'link').symlink_to(tmp_path / 'out' / SAFE)
    assert 'lies in' in refusal('convert', tmp_path / src, tmp_path / 'out', '--overwrite')
    assert snapshot(tmp_path / 'out') == snapshot(converted)


@pytest.mark.parametrize('appears', ['before the swap', 'put back'])
def test_without_overwrite_nothing_is_replaced_later_either(
    appears: str, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that another process writes meanwhile, and one that a dead process had moved away."""
    if appears == 'put back':
        shutil.copytree(converted, tmp_path / '.coatnet-zoo-abcd_123' / 'old' / 'out')
    else:
        save = convert.save_for_hf
        monkeypatch.setattr(
            convert, 'save_for_hf', lambda *a, **k: (save(*a, **k), shutil.copytree(converted, tmp_path / 'out'))
        )
    assert 'exists already' in refusal('convert', FIXTURE, tmp_path / 'out', '--name', 'second')
    assert snapshot(tmp_path / 'out') == snapshot(converted)
    assert [p.name for p in tmp_path.iterdir()] == ['out']


# Places.


def full_disk(*args, **kwargs) -> None:
    raise OSError(errno.ENOSPC, 'No space left on device')


PLACES = {
    '.': 'does not name a folder',
    '': 'does not name a folder',
    '..': 'does not name a folder',
    '/': 'does not name a folder',
    'folder/..': 'does not name a folder',
    './.': 'does not name a folder',
    'file': 'exists already',
    'pipe': 'exists already',
    'broken': 'exists already',
    'folder': 'exists already',
    'file/out': 'Not a directory',
    'file/deep/er/out': 'Not a directory',
    'x' * 300: 'File name too long',
    'x' * 300 + '/out': 'File name too long',
    'deep/' + 'x' * 300 + '/out': 'File name too long',
    '/proc/coatnet/out': 'cannot be written',
    '/dev/null/out': 'Not a directory',
    'loop/out': 'symbolic links',
    'source.pth': 'exists already',
    'source.pth/out': 'Not a directory',
    'two\nlines': None,
    'not\udcffutf8': 'is not UTF-8',
    'emoji \U0001f600': None,
    'missing/parents/out': None,
    'y' * 255: None,
    '-dash': None,
    'trailing/': None,
    '$HOME %s {x}': None,
}


@pytest.mark.parametrize('place', PLACES)
def test_places(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('my own')
    (tmp_path / 'folder').mkdir()
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'broken').symlink_to('nowhere')
    (tmp_path / 'loop').symlink_to('loop')
    shutil.copy(FIXTURE, tmp_path / 'source.pth')
    before = snapshot(tmp_path)
    if PLACES[place] is None:
        output_of('convert', 'source.pth', '--', place)
        assert timm.create_model(f'local-dir:{place}', pretrained=True).num_classes == 10
    else:
        assert PLACES[place] in refusal('convert', 'source.pth', '--', place)
        with pytest.raises(CheckpointError):
            convert_checkpoint('source.pth', place)
        assert snapshot(tmp_path) == before


def test_zero_byte_in_the_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='null'):
        convert_checkpoint(FIXTURE, tmp_path / 'a\0b')


@pytest.mark.parametrize('what', ['mkdtemp', 'save', 'chmod', 'rename', 'mkdir'])
@pytest.mark.parametrize('place', ['out', 'missing/parents/out'])
def test_a_full_disk_leaves_nothing(what: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a folder that is read-only, which gives the same kind of error."""
    target = {
        'mkdtemp': (files.tempfile, 'mkdtemp'),
        'save': (convert, 'save_for_hf'),
        'chmod': (Path, 'chmod'),
        'rename': (os, 'rename'),
        'mkdir': (os, 'mkdir'),
    }[what]
    monkeypatch.setattr(*target, full_disk)
    message = refusal('convert', FIXTURE, tmp_path / place)
    assert message == f'Error: {tmp_path / place} cannot be written: No space left on device.\n'
    assert list(tmp_path.iterdir()) == []
