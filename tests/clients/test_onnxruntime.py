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


def assert_runs_in_onnxruntime(
    whose: str, file: Path, dynamic: dict[int, object] | None, sizes: list[tuple[int, int, int]]
) -> None:
    """Export a network with an example of the first size, and compare logits at all sizes."""
    model = small(whose, stages='CT').eval()
    shapes = dynamic and (dynamic,)
    torch.onnx.export(model, (images(*sizes[0]),), str(file), input_names=['x'], dynamic_shapes=shapes, dynamo=True)
    session = onnxruntime.InferenceSession(str(file))
    for size in sizes:
        x = images(*size)
        (logits,) = session.run(None, {'x': x.numpy()})
        assert_same(torch.from_numpy(logits), model(x).detach(), abs=1e-4)


@whose()
@pytest.mark.parametrize('dynamic', [None, {0: DYNAMIC}], ids=['fixed', 'batch'])
def test_export(whose: str, dynamic: dict[int, object] | None, tmp_path: Path) -> None:
    sizes = [(batch, 64, 64) for batch in ([2, 3, 1] if dynamic else [2])]
    assert_runs_in_onnxruntime(whose, tmp_path / 'm.onnx', dynamic, sizes)


@whose(NOT_ANY_SIZE)
@pytest.mark.parametrize('example', [(2, 64, 64), (2, 96, 64)], ids=['native', 'other'])
def test_export_for_any_size(whose: str, example: tuple[int, int, int], tmp_path: Path) -> None:
    sizes = [example, (2, 64, 64), (1, 96, 128), (3, 64, 32), (1, 70, 90), (1, 160, 160)]
    assert_runs_in_onnxruntime(whose, tmp_path / 'm.onnx', dict.fromkeys((0, 2, 3), DYNAMIC), sizes)
