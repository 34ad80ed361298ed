"""onnxruntime: exporting as users do, with gradients on, and comparing at several batches and sizes."""

from pathlib import Path

import pytest
import torch
from clients import assert_same, client, images, small, whose

onnxruntime = client('onnxruntime')
client('onnxscript')
DYNAMIC = torch.export.Dim.DYNAMIC
# timm's network becomes a file of one size, or no file.
NOT_ANY_SIZE = pytest.RaisesExc(Exception, match='Attempting to broadcast an axis|is inconsistent')


def export(model: torch.nn.Module, x: torch.Tensor, file: Path, dynamic: dict[int, object] | None = None) -> None:
    shapes = dynamic and (dynamic,)
    torch.onnx.export(model, (x,), str(file), input_names=['x'], dynamic_shapes=shapes, dynamo=True, verbose=False)


def assert_runs_as(model: torch.nn.Module, file: Path, sizes: list[tuple[int, int, int]]) -> None:
    session = onnxruntime.InferenceSession(str(file))
    for size in sizes:
        x = images(*size)
        (logits,) = session.run(None, {'x': x.numpy()})
        assert_same(torch.from_numpy(logits), model(x).detach(), abs=1e-4)


@whose()
@pytest.mark.parametrize('dynamic', [None, {0: DYNAMIC}], ids=['fixed', 'batch'])
def test_export(whose: str, dynamic: dict[int, object] | None, tmp_path: Path) -> None:
    model = small(whose, stages='CT').eval()
    export(model, images(), tmp_path / 'm.onnx', dynamic)
    assert_runs_as(model, tmp_path / 'm.onnx', [(2, 64, 64), (3, 64, 64), (1, 64, 64)] if dynamic else [(2, 64, 64)])


@whose()
def test_export_in_training_mode(whose: str, tmp_path: Path) -> None:
    export(small(whose, stages='CT'), images(), tmp_path / 'm.onnx')
    onnxruntime.InferenceSession(str(tmp_path / 'm.onnx'))


@whose(NOT_ANY_SIZE)
@pytest.mark.parametrize('example', [(64, 64), (96, 64)], ids=['native', 'other'])
def test_export_for_any_size(whose: str, example: tuple[int, int], tmp_path: Path) -> None:
    model = small(whose, stages='CT').eval()
    export(model, images(2, *example), tmp_path / 'm.onnx', {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC})
    sizes = [(2, 64, 64), (1, 96, 128), (3, 64, 32), (1, 70, 90), (1, 160, 160)]
    assert_runs_as(model, tmp_path / 'm.onnx', sizes)
