"""Saved models: machine code that gives the same logits, and folders that are refused in one sentence."""

import copy
import hashlib
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from peers import relative_error
from torch import nn

from coatnet_zoo import CheckpointError, load_optimized, optimize_for_inference, save_optimized
from coatnet_zoo.inference import machine_code, optimized, package, saved, streams

needs_compiler = pytest.mark.skipif(shutil.which('g++') is None, reason='needs a C++ compiler')
SMALL = dict(embed_dim=(16,), depths=(1,), block_types='T', dim_head=16, img_size=32, num_classes=7)


@pytest.fixture(scope='module')
def model() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model('coatnet_atto', **SMALL).eval()


@pytest.fixture(scope='module')
def compiled(model: nn.Module) -> nn.Module:
    torch._dynamo.reset()
    return optimize_for_inference(model, compile=True)


@pytest.fixture(scope='module')
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the compiler's packages are kept, from which the saved folder has only the libraries."""
    return tmp_path_factory.mktemp('packages')


@pytest.fixture(scope='module')
def folder(compiled: nn.Module, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which('g++') is None:
        pytest.skip('needs a C++ compiler')
    folder = tmp_path_factory.mktemp('saved') / 'folder'

    def take_library(file: Path) -> Path:
        shutil.copy(file, packages)
        return machine_code.take_library(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, 'take_library', take_library)
        save_optimized(compiled, folder)
    return folder


@torch.inference_mode()
def test_a_saved_model_gives_the_same_logits(model: nn.Module, folder: Path) -> None:
    loaded = load_optimized(folder)
    images = torch.randn(5, 1, 32, 32)
    for copied in (loaded, copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        for batch in (5, 1, 2, 3):
            assert relative_error(copied(images[:batch]), model(images[:batch])) < 1e-5
    assert loaded(images[:0]).shape == (0, 7)
    assert relative_error(loaded.forward_features(images), model.forward_features(images)) < 1e-5
    ours, theirs = (m.forward_intermediates(images, intermediates_only=True) for m in (loaded, model))
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(ours, theirs, strict=True))
    assert timm.data.resolve_model_data_config(loaded) == timm.data.resolve_model_data_config(model)
    assert (loaded.num_classes, loaded.feature_info, loaded.num_features) == (7, model.feature_info, 16)


@pytest.mark.usefixtures('two_threads')
@torch.inference_mode()
def test_threads_of_one_core_compute_parts_of_a_batch(
    model: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, images, called = load_optimized(folder), torch.randn(9, 1, 32, 32), []
    monkeypatch.setattr(
        optimized, 'on_streams', lambda function, x: (called.append(len(x)), streams.on_streams(function, x))[1]
    )
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert relative_error(loaded(images), model(images)) < 1e-5
    assert called == [9, 9]


def test_code_that_calls_python_stays_in_its_package(tmp_path: Path) -> None:
    """Operators that are called through Python are listed beside the library."""
    for names, found in (('a.so a.cpp', 'part.so'), ('a.so a.json', 'part.pt2'), ('a.so b.so', 'part.pt2')):
        with zipfile.ZipFile(tmp_path / 'part.pt2', 'w') as content:
            for name in names.split():
                content.writestr(name, name)
        assert machine_code.take_library(tmp_path / 'part.pt2').name == found
        assert (tmp_path / 'part.pt2').exists() == (found == 'part.pt2')
    assert (tmp_path / 'part.so').read_text() == 'a.so'


@torch.inference_mode()
def test_packages_are_called_by_torch(model: nn.Module, folder: Path, packages: Path, tmp_path: Path) -> None:
    def put_packages(record: dict) -> None:
        for name, part in record['parts'].items():
            del record['files'][part['file']]
            part['file'] = f'{name}.pt2'
            record['files'][part['file']] = hashlib.sha256((packages / part['file']).read_bytes()).hexdigest()

    shutil.copytree(folder, tmp_path / 'new')
    shutil.copytree(packages, tmp_path / 'new', dirs_exist_ok=True)
    _rewrite(tmp_path / 'new', put_packages)
    loaded, images = load_optimized(tmp_path / 'new'), torch.randn(9, 1, 32, 32)
    assert not loaded.streams and type(loaded.stem.module.code._call).__module__.startswith('torch')
    assert relative_error(loaded(images), model(images)) < 1e-5


def test_a_saved_model_takes_one_size(folder: Path) -> None:
    loaded = load_optimized(folder)
    with pytest.raises(ValueError, match=r'takes only images of \(1, 32, 32\), got \(1, 64, 64\); resize'):
        loaded(torch.zeros(1, 1, 64, 64))
    with pytest.raises(ValueError, match=r'stages.0.so takes tensors of torch.float32 of .* got torch.float64'):
        loaded.stages[0](torch.zeros(1, 64, 16, 16, dtype=torch.float64))
    with pytest.raises(RuntimeError, match='cannot be trained'):
        loaded.train()


@needs_compiler
@torch.inference_mode()
def test_compiled_stems_take_batches_of_any_size(model: nn.Module, compiled: nn.Module) -> None:
    """Images of one channel are contiguous and have channels last; the compiler took the wrong one of the two."""
    for batch in (4, 2):
        images = torch.randn(batch, 1, 32, 32)
        assert relative_error(compiled.stem(images), model.stem(images)) < 1e-5


def _rewrite(folder: Path, change: Callable[[dict], object]) -> None:
    """Change the record of a folder as another version of the package would have written it."""
    file = folder / 'optimized.json'
    record = json.loads(file.read_text())
    del record['checksum']
    change(record)
    file.write_text(json.dumps({**record, 'checksum': saved._checksum_of(record)}))


def _on_machine(folder: Path, **values: object) -> None:
    _rewrite(folder, lambda record: record['machine'].update(values))


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


REFUSED = {
    'no folder': (shutil.rmtree, 'is not a folder of save_optimized .*No such file'),
    'no record': (lambda f: (f / 'optimized.json').unlink(), 'is not a folder of save_optimized .*No such file'),
    'no text': (lambda f: (f / 'optimized.json').write_bytes(b'\xff'), 'is not a folder of save_optimized'),
    'deep': (lambda f: (f / 'optimized.json').write_text('[' * 100_000), 'is not a folder of save_optimized'),
    'no table': (lambda f: (f / 'optimized.json').write_text('[]'), 'optimized.json .* has changed since'),
    'edited': (lambda f: _flip(f / 'optimized.json'), 'optimized.json|not a folder of save_optimized'),
    'format': (lambda f: _rewrite(f, lambda r: r.update(format=9)), 'was saved by another version of coatnet-zoo'),
    'torch': (
        lambda f: _on_machine(f, torch='2.0.1'),
        r'code for torch 2.0.1, and here is',
    ),
    'cpu': (
        lambda f: _on_machine(f, avx9=True),
        'code for avx9 True, and here is avx9 None',
    ),
    'no part': (lambda f: (f / 'stem.so').unlink(), r'cannot be loaded \(.*No such file'),
    'cut part': (lambda f: (f / 'stem.so').write_bytes(b'PK'), 'stem.so in .* has changed since'),
    'damaged part': (lambda f: _flip(f / 'stages.0.so'), 'stages.0.so in .* has changed since'),
    'other part': (
        lambda f: (
            (f / 'stem.so').write_bytes(b'PK'),
            _rewrite(f, lambda r: r['files'].update({'stem.so': hashlib.sha256(b'PK').hexdigest()})),
        ),
        r'cannot be loaded \(.*stem\.so',
    ),
    'damaged head': (lambda f: _flip(f / 'head.safetensors'), 'head.safetensors in .* has changed since'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_folders_that_are_refused(case: str, folder: Path, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    changed = tmp_path / 'changed'
    shutil.copytree(folder, changed)
    change(changed)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_optimized(changed)
    assert '\n' not in str(raised.value)


def test_models_that_are_not_saved(model: nn.Module, compiled: nn.Module, folder: Path, tmp_path: Path) -> None:
    new = tmp_path / 'new'
    hooked = copy.deepcopy(compiled)
    hooked.stages[0].register_forward_hook(lambda *_: None)
    other_head = copy.deepcopy(compiled)
    other_head.head.fc = nn.Sequential(nn.Linear(16, 7))
    for wrong, error, message in (
        (model, TypeError, 'needs a model from optimize_for_inference, not CoAtNet'),
        (optimize_for_inference(model), ValueError, 'this model is not compiled; save the original model'),
        (load_optimized(folder), ValueError, 'was loaded from .*folder; copy that folder'),
        (hooked, ValueError, r'what was changed in stages\.0 \(hooks'),
        (other_head, ValueError, r'what was changed in head \(hooks'),
    ):
        with pytest.raises(error, match=message):
            save_optimized(wrong, new)
        assert not list(tmp_path.iterdir())


def test_places_that_are_not_written(compiled: nn.Module, tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('mine')
    for place, message in (
        (tmp_path, 'exists already; choose another folder'),
        (tmp_path / 'file', 'exists already; choose another folder'),
        (tmp_path / 'file' / 'new', 'cannot be written: '),
        ('', 'does not name a folder'),
    ):
        with pytest.raises(CheckpointError, match=message):
            save_optimized(compiled, place)
    assert (tmp_path / 'file').read_text() == 'mine'
    assert [path.name for path in tmp_path.iterdir()] == ['file']


class WrongCode(nn.Conv2d):
    """Machine code that returns other numbers."""

    def __init__(self, file: Path, *_: object) -> None:
        super().__init__(1, 16, 2, 2)
        self.file = file


def test_a_compiler_that_fails_leaves_nothing(
    compiled: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError('no compiler\nat all')

    monkeypatch.setattr(saved, 'write_package', fail)
    with pytest.raises(CheckpointError, match=r'the stem .* cannot be compiled \(no compiler\); .* needs g\+\+'):
        save_optimized(compiled, tmp_path / 'new')
    monkeypatch.setattr(saved, 'write_package', lambda part, images, file: file)
    monkeypatch.setattr(saved, 'Package', WrongCode)
    with pytest.raises(CheckpointError, match=r'made wrong code for this model \(stem differs by \d+%\)'):
        save_optimized(compiled, tmp_path / 'new')
    assert not list(tmp_path.iterdir())
