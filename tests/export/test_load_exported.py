"""Exported folders load without torch, compute the logits of the model, and are refused where they do not fit."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import timm
import torch
from command_line import command, output_of, refusal
from paths import DATA
from peers import assert_close, random_images, randomize_
from PIL import Image

import coatnet_zoo
import coatnet_zoo_runtime
from coatnet_zoo import CoAtNet
from coatnet_zoo.export.formats import FORMATS
from coatnet_zoo_runtime import ExportedModelError, load_exported
from scripts.train_digits import digits as held_in

RUNTIMES = {'onnx': 'onnxruntime', 'openvino': 'openvino'}
SMALL = dict(embed_dim=(32, 64), depths=(1, 1), block_types='CT', stem_width=(8, 8), num_classes=7, img_size=(96, 64))
DIGITS = DATA / 'digits'


@pytest.fixture(scope='module')
def model() -> CoAtNet:
    return randomize_(timm.create_model('coatnet_0', **SMALL)).eval()


@pytest.fixture(scope='module', params=RUNTIMES)
def folder(request: pytest.FixtureRequest, model: CoAtNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export for any number of images; `digits` is one for a single image."""
    pytest.importorskip(RUNTIMES[request.param], reason='needs the extra of this format')
    out = tmp_path_factory.mktemp('exported') / 'out'
    coatnet_zoo.export_model(model, out, request.param, dynamic_batch=True)
    return out


@pytest.mark.parametrize('performance', ['latency', 'throughput'])
@torch.inference_mode()
def test_logits_are_those_of_the_model(performance: str, folder: Path, model: CoAtNet) -> None:
    assert coatnet_zoo.load_exported is load_exported
    exported = load_exported(folder, performance, threads=2)
    assert (exported.input_size, exported.labels) == ((3, 96, 64), None)
    assert exported.format == json.loads((folder / 'preprocessing.json').read_text())['format']
    for count in (1, 5):
        x = torch.randn(count, 3, 96, 64)
        found = exported(x)
        assert isinstance(found, torch.Tensor)
        torch.testing.assert_close(found, model(x), rtol=0, atol=1e-4)
        np.testing.assert_array_equal(exported(x.numpy()), found)
    batches = [torch.randn(3, 3, 96, 64) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for x, found in zip(batches, pool.map(exported, batches), strict=True):
            torch.testing.assert_close(found, model(x), rtol=0, atol=1e-4)


def write_record(folder: Path, format: str, *files: str, **changes: object) -> None:
    """The record of a folder whose files are empty."""
    config = dict(input_size=(3, 96, 64), mean=[0], std=[1], interpolation='bicubic', crop_pct=1, crop_mode='center')
    hashes = {name: sha256(folder.joinpath(name).write_bytes(b'') or b'').hexdigest() for name in files}
    record = dict(config, format=format, labels=['a'] * 7, dynamic=['batch'], files=hashes, **changes)
    (folder / 'preprocessing.json').write_text(json.dumps(record))


@pytest.mark.parametrize('to', [torch.float32, torch.bfloat16, *['cuda'] * torch.cuda.is_available()])
def test_pt2_loads(to: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: CoAtNet) -> None:
    """Compiling takes a minute; here the package is the model itself."""
    write_record(tmp_path, 'pt2', 'model.pt2')
    monkeypatch.setattr(torch._inductor, 'aoti_load_package', lambda path: model)
    x = torch.randn(2, 3, 96, 64).to(to)
    with torch.inference_mode():
        torch.testing.assert_close(load_exported(tmp_path)(x), model(x.cpu().float()).to(x.device), rtol=0, atol=1e-6)


def test_eight_bits_have_one_stream(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, 'openvino', openvino := Mock())
    write_record(tmp_path, 'openvino', 'model.xml', 'model.bin', int8=True)
    load_exported(tmp_path, 'throughput')
    (_, _, config), _ = openvino.Core().compile_model.call_args
    assert (config['PERFORMANCE_HINT'], config['NUM_STREAMS']) == ('LATENCY', 1)


IMAGES: dict[str, tuple[object, str]] = {
    'another size': (np.zeros((1, 3, 64, 64), np.float32), 'takes images (B, 3, 96, 64), not (1, 3, 64, 64).'),
    'one image': (np.zeros((3, 96, 64), np.float32), 'not (3, 96, 64).'),
    'no image': (np.zeros((0, 3, 96, 64), np.float32), 'not (0, 3, 96, 64).'),
    'integers': (torch.zeros(1, 3, 96, 64, dtype=torch.uint8), 'floating-point images, see prepare(); got uint8.'),
}


@pytest.mark.parametrize('case', IMAGES)
def test_images_that_do_not_fit(case: str, folder: Path) -> None:
    images, words = IMAGES[case]
    with pytest.raises(ExportedModelError) as caught:
        load_exported(folder)(images)
    assert words in str(caught.value) and '\n' not in str(caught.value)


def test_labels_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    record = Path(shutil.copytree(folder, tmp_path / 'copy'), 'preprocessing.json')
    record.write_text(json.dumps(json.loads(record.read_text()) | {'labels': ['one']}))
    with pytest.raises(ExportedModelError, match='has 1 labels for'):
        load_exported(record.parent)(np.zeros((1, 3, 96, 64), np.float32))


def changed(folder: Path) -> None:
    file = next(f for f in folder.iterdir() if f.suffix in ('.onnx', '.bin'))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    'no record': (lambda f: (f / 'preprocessing.json').unlink(), 'has no preprocessing.json; export the model again.'),
    'no model': (lambda f: [p.unlink() for p in f.glob('model.*')], 'has no model.'),
    'a changed file': (changed, 'has changed since the export'),
    'another record': (lambda f: (f / 'preprocessing.json').write_text('{"files": {}}'), "'format'"),
    'no hashes': (lambda f: write_record(f, 'onnx', 'other.onnx'), 'preprocessing.json is incomplete; export'),
    'no JSON': (lambda f: (f / 'preprocessing.json').write_text('['), 'cannot be used: '),
}


@pytest.mark.parametrize('case', FOLDERS)
def test_folders_that_are_refused(case: str, folder: Path, tmp_path: Path) -> None:
    change, words = FOLDERS[case]
    shutil.copytree(folder, tmp_path / 'copy')
    change(tmp_path / 'copy')
    with pytest.raises(ExportedModelError) as caught:
        load_exported(tmp_path / 'copy')
    assert words in str(caught.value) and '\n' not in str(caught.value), caught.value


def test_a_missing_runtime_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = json.loads((folder / 'preprocessing.json').read_text())['format']
    monkeypatch.setitem(sys.modules, RUNTIMES[name], None)
    way = f"pip install {RUNTIMES[name]} or 'coatnet-zoo[{name}]'."
    for why in ('.*', 'DLL load failed'):
        with pytest.raises(ExportedModelError, match=rf'needs {RUNTIMES[name]} \({why}\): {re.escape(way)}$'):
            load_exported(folder)
        monkeypatch.setitem(coatnet_zoo_runtime._LOADERS, name, Mock(side_effect=ImportError('DLL load failed')))
    with pytest.raises(ExportedModelError, match=r"performance='fast' does not exist"):
        load_exported(folder, 'fast')


@pytest.mark.parametrize('size', [64, 224, 256, 640])
@pytest.mark.parametrize('format', RUNTIMES)
@torch.inference_mode()
def test_large_images_do_not_make_large_files(format: str, size: int, tmp_path: Path) -> None:
    """In the smallest model, of 1.4 MB, the graph has 60 KB in ONNX and 200 KB in OpenVINO, and biases a fifth."""
    pytest.importorskip(RUNTIMES[format], reason='needs the extra of this format')
    model = randomize_(timm.create_model('coatnet_atto', img_size=size))
    coatnet_zoo.export_model(model, out := tmp_path / 'out', format)
    assert sum(file.stat().st_size for file in out.iterdir()) < 1.3 * sum(p.nbytes for p in model.parameters())
    x = random_images(2, model.in_chans, size)
    assert_close(load_exported(out)(x), model(x), rel=1e-5)


@pytest.mark.parametrize('format, node', [('onnx', b'QuantizeLinear'), ('openvino', b'FakeQuantize')])
def test_eight_bits_lose_at_most_one_point(format: str, node: bytes, tmp_path: Path) -> None:
    """On scikit-learn's digits: calibrated with 64 images of the training, measured on the 360 that were held out."""
    pytest.importorskip(RUNTIMES[format], reason='needs the extra of this format')
    photos = tmp_path / 'photos'
    photos.mkdir()
    for number, pixels in enumerate(held_in(train=True)[0][:64, 0]):
        Image.fromarray(((pixels / 2 + 0.5) * 255).round().byte().numpy()).save(photos / f'{number}.png')
    out = tmp_path / 'new' / 'out'
    words = ['coatnet_atto.digits', out, '--format', format, '--int8', photos, '--dynamic-batch']
    output = output_of('export', *words)
    assert int(re.search(r'\n  the same class for (\d+) of 64 calibration images\n', output)[1]) >= 63
    assert float(re.search(r'from torch is (\S+),', output)[1]) < 0.5
    file = out / FORMATS[format].file
    assert file.read_bytes().count(node) > 30
    beside = {'model.bin'} if format == 'openvino' else set()
    assert {p.name for p in out.iterdir()} == {file.name, 'preprocessing.json'} | beside
    assert list(out.parent.iterdir()) == [out]
    assert sum(p.stat().st_size for p in out.glob('model.*')) < 1_100_000  # 4 bytes a weight are 1.4 MB

    model = timm.create_model('coatnet_atto.digits', pretrained=True).eval()
    images, classes = held_in(train=False)
    found = load_exported(out, 'throughput')(images)
    with torch.inference_mode():
        hits, expected = ((logits.argmax(1) == classes).sum().item() for logits in (found, model(images)))
    assert len(classes) == 360 and hits >= expected - 3, (hits, expected)


@pytest.fixture(scope='module')
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip('onnxruntime', reason='needs the extra onnx')
    out = tmp_path_factory.mktemp('digits') / 'exported'
    output_of('export', 'coatnet_atto.digits', out, '--format', 'onnx')
    return out


def test_predict_answers_as_with_the_model(digits: Path) -> None:
    models = (digits, 'coatnet_atto.digits')
    answers = [json.loads(output_of('predict', DIGITS, '--json', '--model', m)) for m in models]
    for found, expected in zip(*answers, strict=True):
        assert found['file'] == expected['file']
        for a, b in zip(found['predictions'], expected['predictions'], strict=True):
            assert (a['index'], a['label']) == (b['index'], b['label'])
            assert a['probability'] == pytest.approx(b['probability'], abs=1e-5)
    assert 'leave out --optimize' in refusal('predict', DIGITS, '--model', digits, '--optimize')
    broken = command('predict', __file__, DIGITS, '--model', digits)
    assert broken.exit_code == 1 and 'is not an image that can be read' in broken.output


WITHOUT = """
import sys
sys.modules.update(torch=None, timm=None)
"""


def test_neither_torch_nor_timm_is_needed(digits: Path, tmp_path: Path) -> None:
    """For the command, and for the file of the runtime alone in another folder."""
    call = f'sys.argv = ["coatnet-zoo", "predict", {str(DIGITS)!r}, "--model", {str(digits)!r}]\n'
    code = f'{WITHOUT}{call}import coatnet_zoo_command\ncoatnet_zoo_command.main()'
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0 and '7_row1496.png' in result.stdout, result.stderr
    shutil.copy(coatnet_zoo_runtime.__file__, tmp_path / 'my_runtime.py')
    code = (
        f'{WITHOUT}sys.modules.update(coatnet_zoo=None, coatnet_zoo_runtime=None)\nimport my_runtime\n'
        f'model = my_runtime.load_exported({str(digits)!r})\n'
        f'print(model.labels[model(model.prepare({str(DIGITS / "7_row1496.png")!r})[None]).argmax()])'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout == '7\n', result.stderr
