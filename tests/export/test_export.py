"""`coatnet-zoo export` and `export_model`: what is written, how it compares, and that nothing half-written stays."""

import dataclasses
import itertools
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from command_line import command, output_of
from paths import DATA
from peers import randomize_
from timm.models import save_for_hf

import coatnet_zoo_runtime
from coatnet_zoo import CoAtNet, ExportError, export_model, optimize_for_inference
from coatnet_zoo.export.formats import FORMATS, Task
from coatnet_zoo_runtime import load_exported

DIGITS = DATA / 'digits'
SMALL = dict(embed_dim=(32, 64), depths=(1, 1), block_types='CT', stem_width=(8, 8), num_classes=7)
FIVE = ((96, 64), (64, 96), (33, 47), (130, 97), (96, 96))
INSTALLED = {'onnx': 'onnxruntime', 'openvino': 'openvino'}


def small(name: str = 'coatnet_0', **kwargs) -> CoAtNet:
    return randomize_(timm.create_model(name, **{**SMALL, 'img_size': (96, 64), **kwargs}))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Adds a format that takes no time: the network as it is, computed by torch."""
    networks: dict[bytes, torch.nn.Module] = {}

    def write(task: Task, file: Path) -> None:
        file.write_bytes(str(tuple(task.example.shape)).encode())
        networks[file.read_bytes()] = task.network

    def compute(folder: Path, *_) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
        network = networks[(folder / 'model.fake').read_bytes()]
        return lambda parts: [network(torch.from_numpy(part)).detach().numpy() for part in parts]

    def add(load: Callable = compute, **changes) -> None:
        format = dataclasses.replace(FORMATS['onnx'], file='model.fake', modules=(), write=write)
        monkeypatch.setitem(FORMATS, 'fake', dataclasses.replace(format, **changes))
        monkeypatch.setitem(coatnet_zoo_runtime._LOADERS, 'fake', load)

    add()
    return add


@pytest.mark.parametrize('format', [*INSTALLED, 'torch', 'torch, strict'])
def test_any_size_and_any_number(format: str, tmp_path: Path) -> None:
    pytest.importorskip(INSTALLED.get(format, 'torch'), reason='needs the extra of this format')
    model = small()
    if format in INSTALLED:
        done = export_model(model, tmp_path / 'out', format, dynamic_batch=True, dynamic_size=True)
        compute = load_exported(done.file.parent)
        assert done.comparison.agreement == 6 * 2 and done.comparison.difference < 1e-4
    else:
        any_size, x = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC), torch.zeros(2, 3, 96, 64)
        graph = torch.export.export(model, (x,), dynamic_shapes=(any_size,), strict='strict' in format).module()
        compute = lambda x: graph(torch.from_numpy(x)).detach()  # noqa: E731
    for n, size in enumerate(FIVE, start=1):
        x = torch.randn(n, 3, *size)
        with torch.no_grad():
            np.testing.assert_allclose(compute(x.numpy()), model(x), rtol=0, atol=1e-4)


def test_what_is_kept_beside_the_model(tmp_path: Path, fake: Callable) -> None:
    model = timm.create_model('coatnet_0', **{**SMALL, 'num_classes': 3})
    labels = ['cat', 'dog', 'crème brûlée']
    save_for_hf(model, tmp_path / 'folder', model_config={'label_names': labels}, safe_serialization=True)
    args = ('--format', 'fake', '--img-size', '64', '--dynamic-batch')
    output_of('export', tmp_path / 'folder', tmp_path / 'out', *args)
    about = json.loads((tmp_path / 'out' / 'preprocessing.json').read_text(encoding='utf-8'))
    config = timm.data.resolve_model_data_config(model)
    assert about.pop('labels') == labels and about.pop('input_size') == [3, 64, 64]
    assert about.pop('dynamic') == ['batch'] and about.pop('model') == 'coatnet_0.sw_in1k'
    assert about.pop('format') == 'fake' and list(about.pop('files')) == ['model.fake'] and about.pop('int8') is False
    assert about == {k: list(v) if isinstance(v, tuple) else v for k, v in config.items() if k != 'input_size'}


def test_other_channels_get_the_average(tmp_path: Path, fake: Callable, caplog: pytest.LogCaptureFixture) -> None:
    for n, model in ((4, small(in_chans=4)), (3, timm.create_model('coatnet_atto', pretrained=True, in_chans=3))):
        export_model(model, tmp_path / f'{n}', 'fake')
        about = json.loads((tmp_path / f'{n}' / 'preprocessing.json').read_text())
        assert about['mean'] == about['std'] == [0.5] * n and (about['labels'] is None) == (n == 4)
        assert f'{n} channels without mean and std: assuming the average, mean 0.5 and std 0.5.' in caplog.text


def test_a_graph_of_another_size_has_core_operators() -> None:
    """Which other converters, such as Core ML's, take."""
    program = torch.export.export(small(img_size=64), (torch.zeros(1, 3, 160, 224),)).run_decompositions()
    targets = {node.target for node in program.graph.nodes if node.op == 'call_function'}
    others = {str(target) for target in targets if torch.Tag.core not in getattr(target, 'tags', ())}
    assert others <= {'aten._assert_tensor_metadata.default', '<built-in function getitem>'}


@pytest.mark.parametrize('size', [64, (64, 128)])
def test_another_size_and_the_model_stays_as_it_is(size: int | tuple[int, int], tmp_path: Path, fake: Callable) -> None:
    model = small().train().double()
    done = export_model(model, tmp_path / 'out', 'fake', img_size=size)
    assert model.training and model.img_size == (96, 64) and next(model.parameters()).dtype == torch.float64
    x = torch.randn(1, 3, *((size, size) if isinstance(size, int) else size))
    with torch.no_grad():
        expected = model.eval().float()(x)
    np.testing.assert_allclose(load_exported(tmp_path / 'out')(x.numpy()), expected, rtol=0, atol=1e-4)
    assert done.file.read_text() == str(tuple(x.shape))


@pytest.mark.parametrize('format', FORMATS)
@pytest.mark.parametrize('free', [(), (10**9,)])
def test_a_full_disk_is_named(format: str, free: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is written, and where a writer fails in the middle."""
    left = itertools.chain(free, itertools.repeat(10**5))
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(10**9, 10**9, next(left)))
    changes = dict(modules=(), write=half(RuntimeError('the stream is bad')))
    monkeypatch.setitem(FORMATS, format, dataclasses.replace(FORMATS[format], **changes))
    with pytest.raises(ExportError, match='out cannot be written: No space left on device'):
        export_model(small(), tmp_path / 'out', format)
    assert list(tmp_path.iterdir()) == []


BAD = [
    (dict(format='coreml'), "There is no format 'coreml'; choose one of onnx, openvino, pt2, fake."),
    (dict(out='there'), 'there already exists'),
    (dict(out='file/out'), 'out cannot be written'),
    (dict(out='model.onnx'), 'must be a folder'),
    (dict(img_size='31'), 'Images must have 32 to 4096 pixels on each side, not 31.'),
    (dict(img_size='100000'), 'Images must have 32 to 4096 pixels on each side, not 100000.'),
    (dict(format='pt2', int8='good'), 'pt2 is for one size, in float32; export to onnx or openvino'),
    (dict(format='pt2', dynamic_size=''), 'pt2 is for one size, in float32; export to onnx'),
    (dict(int8='nowhere'), 'There is no folder nowhere; calibration needs'),
    (dict(int8='empty'), 'The folder empty has no images. Calibration needs'),
    (dict(int8='bad'), 'broken.png is not an image that can be read'),
    (dict(model='coatnet_99'), "The model 'coatnet_99' cannot be loaded"),
    (dict(model='resnet18'), 'not a model of this package'),
]  # fmt: skip


@pytest.mark.parametrize('given, message', BAD)
def test_bad_input(given: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: Callable) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ('there', 'empty', 'good', 'bad'):
        Path(folder).mkdir()
    Path('file').write_bytes(b'some text')
    for name, size in (('good/image.png', None), ('bad/image.png', None), ('bad/broken.png', 90)):
        Path(name).write_bytes((DIGITS / '7_row1496.png').read_bytes()[:size])
    before = set(tmp_path.rglob('*'))
    given = {'model': 'coatnet_atto.digits', 'out': 'out', 'format': 'fake', **given}
    words = [given.pop('model'), given.pop('out')]
    for name, value in given.items():
        words += [f'--{name.replace("_", "-")}', value]
    result = command('export', *filter(None, words))
    error = [line for line in result.output.splitlines() if not re.match(r' +\d+ s  ', line)]
    assert result.exit_code == 1 and len(error) == 1 and message in error[0], result.output
    assert set(tmp_path.rglob('*')) == before


def test_a_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'nncf', None)
    monkeypatch.setitem(sys.modules, 'openvino', None)
    with pytest.raises(ExportError, match=r"openvino: pip install 'coatnet-zoo\[openvino\]'"):
        export_model(small(), tmp_path / 'out', 'openvino')


def test_windows_have_one_size(tmp_path: Path, fake: Callable) -> None:
    model = small(impl='paper', attn_window=4)
    assert export_model(model, tmp_path / 'out', 'fake').comparison.difference < 1e-4
    with pytest.raises(ExportError, match='attention is exported for one size'):
        export_model(model, tmp_path / 'any', 'fake', dynamic_size=True)


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: optimize_for_inference(small()), 'nor one from optimize_for_inference; export the model that'),
        (lambda: timm.create_model('coatnet_0', depths=(1,) * 4, features_only=True), 'Only a complete CoAtNet'),
        (lambda: timm.create_model('resnet18'), 'Only a complete CoAtNet'),
        (lambda: small(num_classes=0), 'no classifier'),
        (lambda: small('coatnet_0', impl='paper', attn_window=9), 'attn_window=9 has no effect at img_size=(64, 64)'),
    ],
)  # fmt: skip
def test_models_that_are_not_exported(make: Callable, message: str, tmp_path: Path, fake: Callable) -> None:
    with pytest.raises(ExportError, match=re.escape(message)):
        export_model(make(), tmp_path / 'out', 'fake', img_size=64)
    assert list(tmp_path.iterdir()) == []


def half(error: BaseException) -> Callable[[Task, Path], None]:
    def write(task: Task, file: Path) -> None:
        file.write_bytes(b'half')
        raise error

    return write


@pytest.mark.parametrize(
    'changes, error, message',
    [
        (dict(write=half(OSError(28, 'No space left on device'))), ExportError, 'cannot be written: No space left'),
        (dict(write=half(RuntimeError('g++: No space left on device'))), ExportError, 'written: No space left'),
        (dict(write=half(RuntimeError('no such operator\nat line 3'))), ExportError, r'\(no such operator\)'),
        (dict(write=half(KeyboardInterrupt())), KeyboardInterrupt, None),
        (dict(load=lambda *_: lambda parts: [np.ones((len(p), 7)) for p in parts]), ExportError, 'differ from'),
        (dict(load=lambda *_: lambda parts: [np.full((len(p), 7), np.nan) for p in parts]), ExportError, 'differ from'),
    ],
)
def test_nothing_half_written_stays(
    changes: dict, error: type[BaseException], message: str | None, tmp_path: Path, fake: Callable
) -> None:
    fake(**changes)
    with pytest.raises(error, match=message):
        export_model(small(), tmp_path / 'out', 'fake')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('most, taken', [(300, 10), (10, 10), (9, 5), (3, 3)])
def test_images_are_spread_over_the_folder(
    most: int, taken: int, tmp_path: Path, fake: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are no images are skipped."""
    monkeypatch.setattr('coatnet_zoo.export.calibration._MOST', most)
    shutil.copytree(DIGITS, tmp_path / 'images' / 'digits')
    for name in ('notes.pdf', 'labels.txt', 'digits/png', '.hidden.png'):
        (tmp_path / 'images' / name).write_bytes(b'some text')
    steps: list[str] = []
    done = export_model(small(), tmp_path / 'out', 'fake', int8=tmp_path / 'images', progress=steps.append)
    assert (done.images, done.comparison.agreement) == (taken, taken)
    writing = f'writing model.fake in 8-bit integers, from {taken} images'
    assert steps == ['reading images', writing, 'comparing onnxruntime with torch']
