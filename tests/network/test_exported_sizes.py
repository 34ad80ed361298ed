"""Position tables in exported graphs: the eager values at every size, whatever size the example has."""

import pytest
import torch
from torch import nn

from coatnet_zoo.network import RelPosBias

SIZES = ((4, 5), (5, 4), (4, 6), (3, 5), (2, 2), (9, 7))


class Positions(nn.Module):
    """The bias of the size of a feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = RelPosBias((4, 5), 3)
        nn.init.normal_(self.bias.relative_position_bias_table)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, height, width) -> (1, heads, N, N)."""
        return self.bias(x.shape[2], x.shape[3])


@torch.no_grad()
@pytest.mark.parametrize('example', [(4, 5), (4, 4), (6, 7)])
def test_any_example_makes_a_graph_for_any_size(example: tuple[int, int]) -> None:
    model = Positions()
    dynamic = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    graph = torch.export.export(model, (torch.zeros(1, 1, *example),), dynamic_shapes=(dynamic,)).module()
    for size in SIZES:
        assert torch.equal(graph(torch.zeros(1, 1, *size)), model.bias(*size)), size
