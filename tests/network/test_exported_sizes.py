"""Exported graphs for any height and width: the eager values at every size, whatever size the example has."""

from pathlib import Path

import pytest
import timm
import torch
from long_tests import slow
from peers import random_images, randomize_
from torch import nn

from coatnet_zoo.network import RelPosBias, expand_rel_pos_table

SIZES = ((4, 5), (5, 4), (4, 6), (3, 5), (2, 2), (9, 7))


class Positions(nn.Module):
    """The bias of the size of a feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = RelPosBias((4, 5), 3)
        nn.init.normal_(self.bias.relative_position_bias_table)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, height, width) -> (1, heads, N, N)."""
        height, width = x.shape[2:]
        return expand_rel_pos_table(self.bias(height, width), height, width)


@torch.no_grad()
@pytest.mark.parametrize('example', [(4, 5), (4, 4), (6, 7)])
def test_any_example_makes_a_graph_for_any_size(example: tuple[int, int]) -> None:
    model = Positions()
    dynamic = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    graph = torch.export.export(model, (torch.zeros(1, 1, *example),), dynamic_shapes=(dynamic,)).module()
    for size in SIZES:
        assert torch.equal(graph(torch.zeros(1, 1, *size)), expand_rel_pos_table(model.bias(*size), *size)), size


@pytest.mark.parametrize(
    'impl, mode',
    [('paper', 'eval'), pytest.param('timm', 'eval', marks=slow), pytest.param('paper', 'train', marks=slow)],
)
def test_onnx_of_any_size_with_gradients_on(impl: str, mode: str, tmp_path: Path) -> None:
    """The example has the native size. 2x2 pooling averages (timm) or takes the maximum (paper) at odd edges, too."""
    pytest.importorskip('onnxscript')
    runtime = pytest.importorskip('onnxruntime')
    stages = dict(stem_width=(8, 16), embed_dim=(32, 64), depths=(1, 1), block_types='CT', num_classes=3)
    model = randomize_(timm.create_model('coatnet_1', impl=impl, img_size=64, **stages)).train(mode == 'train')
    dynamic = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    file, example = tmp_path / 'model.onnx', random_images(2, 3, 64)
    torch.onnx.export(model, (example,), file, dynamo=True, dynamic_shapes=(dynamic,), verbose=False)
    session = runtime.InferenceSession(file, providers=['CPUExecutionProvider'])
    for size in (64, 96, (70, 101), (64, 35), (160, 48)) if mode == 'eval' else ():
        x = random_images(1, 3, size)
        (theirs,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(theirs), model(x).detach(), rtol=0, atol=1e-4)
