"""The folder of a conversion: what a person may say of a checkpoint, and where a conversion may write."""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from checkpoint_bytes import FIXTURE
from command_line import output_of, refusal

from coatnet_zoo import CheckpointError, convert_checkpoint, files
from coatnet_zoo.convert import convert

SAFE = 'model.safetensors'
TEN = [f'digit {i}' for i in range(10)]
NAN, INF = math.nan, math.inf

REFUSED: dict[str, list[Any]] = {
    'mean': [[NAN], [INF], [1.001], [-0.001], [128], [10**400], [], [True], ['0.5'], 0.5, 'ab', [None], [[0.5]]],
    'std': [[NAN], [INF], [1.001], [0.0009], [0], [-0.5], [57.4], [], [True], 0.5, {0: 0.5}],
    'crop_pct': [NAN, INF, 0, -1, 1.01, 95, 0.001, '0.9', True, [0.9]],
    'interpolation': ['', 'cubic', 'BICUBIC', 3, ['bicubic'], 'x' * 10_000, 'bi\ncubic'],
    'img_size': [0, -1, 31, 10**30, 64.0, '64', True, (64, 64, 64), (64, 96), 96],
    'name': ['', ' ', 'a\nb', 'a\0b', '\ud800', 'x' * 201, 5, ['a'], '\u2028'],
    'labels': [
        *('0123456789', TEN[:9], [*TEN, 'one more'], [TEN], dict.fromkeys(TEN), set(TEN), 10),
        *([*TEN[:9], wrong] for wrong in ('', '  ', None, 9, 'a\nb', 'a\rb', 'a\0b', '\ud83d')),
    ],
}


@pytest.mark.parametrize('name', REFUSED)
def test_arguments_that_are_refused(name: str, tmp_path: Path) -> None:
    for value in REFUSED[name]:
        with pytest.raises(CheckpointError) as caught:
            convert_checkpoint(FIXTURE, tmp_path / 'out', **{name: value})
        message = str(caught.value)
        assert '\n' not in message and message.endswith('.') and message.isprintable() and len(message) < 500, value
    assert list(tmp_path.iterdir()) == []


ACCEPTED: list[dict[str, Any]] = [
    dict(mean=(0.0,), std=(1 / 255,), crop_pct=0.1, interpolation='nearest'),
    dict(mean=[np.float64(0.25)], std=[np.float64(0.5)], img_size=64),
    dict(name='weights of 2024 (ü, 日本) "quoted" \\ /'),
    dict(labels=['crane', 'crane', 'a\u2028b', 'a\x85b', 'a\x0bb', '日本', '\U0001f600', '"', '\\', ' padded ']),
]


@pytest.mark.parametrize('arguments', ACCEPTED, ids=lambda arguments: ' '.join(arguments))
def test_arguments_that_are_read_right(arguments: dict[str, Any], tmp_path: Path) -> None:
    convert_checkpoint(FIXTURE, tmp_path / 'out', **arguments)
    cfg = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).pretrained_cfg
    expected = {{'name': 'tag', 'labels': 'label_names'}.get(k, k): v for k, v in arguments.items() if k != 'img_size'}
    assert {k: cfg[k] for k in expected} == {k: list(v) if isinstance(v, tuple) else v for k, v in expected.items()}


# Files with labels.

SEPARATORS = [f'a{c}b' for c in '\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029']
LABELS = {
    'with final empty lines': (('\n'.join(TEN) + '\n\n\n').encode(), TEN),
    'with a byte order mark': (('\ufeff' + '\n'.join(TEN)).encode(), TEN),
    'with odd separators': ('\n'.join([*SEPARATORS, 'c', 'd']).encode(), [*SEPARATORS, 'c', 'd']),
}


@pytest.mark.parametrize('kind', LABELS)
def test_labels_that_are_read_right(kind: str, tmp_path: Path) -> None:
    content, expected = LABELS[kind]
    (tmp_path / 'labels.txt').write_bytes(content)
    output_of('convert', FIXTURE, tmp_path / 'out', '--labels', tmp_path / 'labels.txt')
    assert json.loads((tmp_path / 'out' / 'config.json').read_text())['label_names'] == expected


BAD_LABELS: dict[str, tuple[Callable[[Path], object], str]] = {
    'missing': (lambda f: None, 'There is no file'),
    'endless': (lambda f: f.symlink_to('/dev/zero'), 'a folder, pipe or device of that name'),
    'one gigabyte': (lambda f: (f.touch(), os.truncate(f, 1 << 30)), 'larger than 10 MB'),
    'of Latin-1': (lambda f: f.write_bytes(b'caf\xe9\n' * 10), 'is not UTF-8 (byte 3)'),
    'too few': (lambda f: f.write_text('cat\ndog'), '2 labels were given, but the checkpoint has 10'),
}


@pytest.mark.parametrize('kind', BAD_LABELS)
def test_labels_that_are_refused(kind: str, tmp_path: Path) -> None:
    make, message = BAD_LABELS[kind]
    make(tmp_path / 'labels.txt')
    assert message in refusal('convert', FIXTURE, tmp_path / 'out', '--labels', tmp_path / 'labels.txt')
    assert not (tmp_path / 'out').exists()


# Where a conversion may write: to a new place, an empty folder, or a folder with nothing but the three files.


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


def link_for_weights(folder: Path) -> None:
    (folder / SAFE).rename(folder.parent / 'weights')
    (folder / SAFE).symlink_to(folder.parent / 'weights')


KEPT: dict[str, Callable[[Path], object]] = {
    'another file': lambda f: (f / 'thesis.tex').write_text('my own'),
    'a folder of that name': lambda f: ((f / SAFE).unlink(), (f / SAFE).mkdir()),
    'a link for weights': link_for_weights,
    'a file': lambda f: (shutil.rmtree(f), f.write_text('my own')),
    'a pipe': lambda f: (shutil.rmtree(f), os.mkfifo(f)),
    'a link to a conversion': lambda f: (f.rename(f.with_name('real')), f.symlink_to(f.with_name('real'))),
}
REPLACED: dict[str, Callable[[Path], object]] = {
    'a conversion': lambda f: None,
    'an empty folder': lambda f: [p.unlink() for p in f.iterdir()],
    'other content': lambda f: [p.write_text('old') for p in f.iterdir()],
}


@pytest.mark.parametrize('kind', KEPT)
def test_overwrite_leaves_everything_else(kind: str, converted: Path, tmp_path: Path) -> None:
    shutil.copytree(converted, out := tmp_path / 'out')
    KEPT[kind](out)
    before = snapshot(tmp_path)
    message = refusal('convert', FIXTURE, out, '--overwrite')
    assert str(out) in message and 'not overwritten' in message
    assert snapshot(tmp_path) == before
    assert 'already exists' in refusal('convert', FIXTURE, out)


@pytest.mark.parametrize('kind', REPLACED)
def test_overwrite_replaces_the_three_files(kind: str, converted: Path, tmp_path: Path) -> None:
    shutil.copytree(converted, out := tmp_path / 'out')
    REPLACED[kind](out)
    assert 'already exists' in refusal('convert', FIXTURE, out)
    output_of('convert', FIXTURE, out, '--overwrite')
    assert snapshot(tmp_path / 'out') == snapshot(converted)
    assert [p.name for p in tmp_path.iterdir()] == ['out']


@pytest.mark.parametrize('src', [f'out/{SAFE}', f'out/../out/{SAFE}', 'link', 'local-dir:out'])
def test_the_folder_of_the_source_is_not_replaced(src: str, converted: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(converted, tmp_path / 'out')
    (tmp_path / 'link').symlink_to(tmp_path / 'out' / SAFE)
    monkeypatch.chdir(tmp_path)
    assert 'is inside' in refusal('convert', src, 'out', '--overwrite')
    assert snapshot(tmp_path / 'out') == snapshot(converted)


def test_a_folder_that_appears_meanwhile_stays(converted: Path, tmp_path: Path, monkeypatch) -> None:
    save, out = convert.save_folder, tmp_path / 'out'
    monkeypatch.setattr(convert, 'save_folder', lambda *a, **k: (save(*a, **k), shutil.copytree(converted, out)))
    assert 'already exists' in refusal('convert', FIXTURE, out, '--name', 'second')
    assert snapshot(out) == snapshot(converted) and [p.name for p in tmp_path.iterdir()] == ['out']


PLACES = {
    '.': 'is not the name of a new folder',
    'file/deep/er/out': 'Not a directory',
    'x' * 300: 'File name too long',
    '/proc/coatnet/out': 'cannot be written',
    'loop/out': 'symbolic links',
    'not\udcffutf8': 'is not UTF-8',
    'two\nlines': None,
    'missing/parents/out': None,
    'folder/../missing/../out': None,
    '-dash': None,
}


@pytest.mark.parametrize('place', PLACES)
def test_places(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('my own')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'loop').symlink_to('loop')
    before = snapshot(tmp_path)
    if PLACES[place] is None:
        output_of('convert', FIXTURE, '--', place)
        where = place.replace('missing/../', '')
        assert timm.create_model(f'local-dir:{where}', pretrained=True).num_classes == 10
    else:
        assert PLACES[place] in refusal('convert', FIXTURE, '--', place)
        assert snapshot(tmp_path) == before


def test_zero_byte_in_the_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='null'):
        convert_checkpoint(FIXTURE, tmp_path / 'a\0b')


TARGETS = [(files.tempfile, 'mkdtemp'), (convert, 'save_folder'), (Path, 'chmod'), (os, 'rename'), (os, 'mkdir')]


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left on device'), KeyboardInterrupt()])
@pytest.mark.parametrize('target', TARGETS, ids=lambda target: target[1])
def test_a_full_disk_or_ctrl_c_leaves_nothing(target: tuple, error: BaseException, tmp_path: Path, monkeypatch) -> None:
    """Also a folder that is read-only, which gives the same kind of error."""

    def fail(*args, **kwargs) -> None:
        raise error

    monkeypatch.setattr(*target, fail)
    expected = CheckpointError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match=getattr(error, 'strerror', None)):
        convert_checkpoint(FIXTURE, tmp_path / 'missing/parents/out')
    assert list(tmp_path.iterdir()) == []


# Files.


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / 'precious').write_text('old')
    (tmp_path / 'file').symlink_to(tmp_path / 'precious')
    files.write_file(tmp_path / 'file', lambda new: new.write_text('new'))
    assert (tmp_path / 'precious').read_text() == 'old' and (tmp_path / 'file').read_text() == 'new'


@pytest.mark.parametrize('umask', [0o022, 0o027, 0o077])
def test_permissions_are_those_of_new_files(umask: int, tmp_path: Path) -> None:
    def private(new: Path) -> None:
        new.write_text('x')
        new.chmod(0o600)

    before = os.umask(umask)
    try:
        files.write_file(tmp_path / 'file', private)
        files.write_folder(tmp_path / 'new' / 'folder', lambda new: private(new / 'x'), lambda old: None)
        (tmp_path / 'plain').mkdir()
        (tmp_path / 'plain' / 'x').write_text('x')
    finally:
        os.umask(before)
    for ours, theirs in (('file', 'plain/x'), ('new', 'plain'), ('new/folder', 'plain'), ('new/folder/x', 'plain/x')):
        assert (tmp_path / ours).stat().st_mode == (tmp_path / theirs).stat().st_mode, ours
