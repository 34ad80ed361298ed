"""OpenVINO: converting the network itself and an exported program, and running them."""

from pathlib import Path

import pytest
import torch
from clients import assert_same, client, images, small, whose

openvino = client('openvino')
# Without the hint OpenVINO computes in bfloat16 where the CPU can.
EXACT = {'INFERENCE_PRECISION_HINT': 'f32'}
NOT_ANY_SIZE = pytest.RaisesExc(RuntimeError, match='The size of tensor a .* must match the size of tensor b')


@whose()
@pytest.mark.parametrize('exported', [False, True], ids=['module', 'exported program'])
def test_conversion(whose: str, exported: bool, tmp_path: Path) -> None:
    model, x = small(whose, stages='CT').eval(), images()
    if exported:
        converted = openvino.convert_model(torch.export.export(model, (x,)))
    else:
        converted = openvino.convert_model(model, example_input=x, input=[-1, 3, 64, 64])
    openvino.save_model(converted, tmp_path / 'm.xml', compress_to_fp16=False)
    compiled = openvino.compile_model(tmp_path / 'm.xml', 'CPU', EXACT)
    for batch in [2] if exported else [1, 2, 3]:
        x = images(batch)
        assert_same(torch.from_numpy(compiled(x.numpy())[0]), model(x).detach(), abs=1e-4)


@whose(NOT_ANY_SIZE)
def test_conversion_for_any_size(whose: str) -> None:
    model = small(whose, stages='CT').eval()
    dynamic = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(model, (images(2, 96, 64),), dynamic_shapes=(dynamic,))
    compiled = openvino.compile_model(openvino.convert_model(program), 'CPU', EXACT)
    for size in [(2, 96, 64), (1, 64, 64), (3, 64, 32), (1, 70, 90)]:
        x = images(*size)
        assert_same(torch.from_numpy(compiled(x.numpy())[0]), model(x).detach(), abs=1e-4)
