"""Where a conversion may write: to a new place, an empty folder, or a folder with nothing but the three files."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
from command_line import output_of, refusal
from paths import DATA

from coatnet_zoo import CheckpointError, convert_checkpoint, files
from coatnet_zoo.convert import convert

FIXTURE = DATA / 'chinhsuanwu_digits_64.pth'
SAFE = 'model.safetensors'


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


REFUSED: dict[str, Callable[[Path], object]] = {
    'another file': lambda f: (f / 'thesis.tex').write_text('my own'),
    'a hidden file': lambda f: (f / '.note').write_text('my own'),
    'a folder inside': lambda f: (f / 'runs').mkdir(),
    'a folder of that name': lambda f: ((f / SAFE).unlink(), (f / SAFE).mkdir()),
    'a link for weights': link_for_weights,
    'a file': lambda f: (shutil.rmtree(f), f.write_text('my own')),
    'a pipe': lambda f: (shutil.rmtree(f), os.mkfifo(f)),
    'a link to a conversion': lambda f: (f.rename(f.with_name('real')), f.symlink_to(f.with_name('real'))),
    'a broken link': lambda f: (shutil.rmtree(f), f.symlink_to('nowhere')),
}
REPLACED: dict[str, Callable[[Path], object]] = {
    'a conversion': lambda f: None,
    'an empty folder': lambda f: [p.unlink() for p in f.iterdir()],
    'one file': lambda f: (f / SAFE).unlink(),
    'other content': lambda f: [p.write_text('old') for p in f.iterdir()],
}


@pytest.mark.parametrize('kind', REFUSED)
def test_overwrite_leaves_everything_else(kind: str, converted: Path, tmp_path: Path) -> None:
    shutil.copytree(converted, out := tmp_path / 'out')
    REFUSED[kind](out)
    before = snapshot(tmp_path)
    message = refusal('convert', FIXTURE, out, '--overwrite')
    assert str(out) in message and 'not overwritten' in message
    assert snapshot(tmp_path) == before
    assert 'exists already' in refusal('convert', FIXTURE, out)


@pytest.mark.parametrize('kind', REPLACED)
def test_overwrite_replaces_the_three_files(kind: str, converted: Path, tmp_path: Path) -> None:
    shutil.copytree(converted, out := tmp_path / 'out')
    REPLACED[kind](out)
    assert 'exists already' in refusal('convert', FIXTURE, out)
    output_of('convert', FIXTURE, out, '--overwrite')
    assert snapshot(tmp_path / 'out') == snapshot(converted)
    assert [p.name for p in tmp_path.iterdir()] == ['out']


@pytest.mark.parametrize('src', [f'out/{SAFE}', f'out/../out/{SAFE}', 'link'])
def test_the_folder_of_the_source_is_not_replaced(src: str, converted: Path, tmp_path: Path) -> None:
    shutil.copytree(converted, tmp_path / 'out')
    (tmp_path / 'link').symlink_to(tmp_path / 'out' / SAFE)
    assert 'lies in' in refusal('convert', tmp_path / src, tmp_path / 'out', '--overwrite')
    assert snapshot(tmp_path / 'out') == snapshot(converted)


def test_a_folder_that_appears_meanwhile_stays(converted: Path, tmp_path: Path, monkeypatch) -> None:
    save, out = convert.save_for_hf, tmp_path / 'out'
    monkeypatch.setattr(convert, 'save_for_hf', lambda *a, **k: (save(*a, **k), shutil.copytree(converted, out)))
    assert 'exists already' in refusal('convert', FIXTURE, out, '--name', 'second')
    assert snapshot(out) == snapshot(converted) and [p.name for p in tmp_path.iterdir()] == ['out']


PLACES = {
    '.': 'does not name a folder',
    '/': 'does not name a folder',
    'folder/..': 'does not name a folder',
    'folder': 'exists already',
    'broken': 'exists already',
    'file/deep/er/out': 'Not a directory',
    'x' * 300: 'File name too long',
    '/proc/coatnet/out': 'cannot be written',
    'loop/out': 'symbolic links',
    'not\udcffutf8': 'is not UTF-8',
    'two\nlines': None,
    'missing/parents/out': None,
    'folder/../missing/../out': None,
    '-dash': None,
    'trailing/': None,
}


@pytest.mark.parametrize('place', PLACES)
def test_places(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('my own')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'broken').symlink_to('nowhere')
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


TARGETS = {
    'mkdtemp': (files.tempfile, 'mkdtemp'),
    'save': (convert, 'save_for_hf'),
    'chmod': (Path, 'chmod'),
    'rename': (os, 'rename'),
    'mkdir': (os, 'mkdir'),
}


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left on device'), KeyboardInterrupt()])
@pytest.mark.parametrize('what', TARGETS)
@pytest.mark.parametrize('place', ['out', 'missing/parents/out'])
def test_a_full_disk_or_ctrl_c_leaves_nothing(
    what: str, place: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a folder that is read-only, which gives the same kind of error."""

    def fail(*args, **kwargs) -> None:
        raise error

    monkeypatch.setattr(*TARGETS[what], fail)
    expected = CheckpointError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match=getattr(error, 'strerror', None)):
        convert_checkpoint(FIXTURE, tmp_path / place)
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
