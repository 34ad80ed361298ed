"""The layouts of the paper's table, C-C-C-C to C-T-T-T, for every size and implementation."""

import pytest
import timm
import torch
from peers import random_images, randomize_
from torch import nn

from coatnet_zoo import CoAtNet, list_impls, optimize_for_inference, resolve_cfg
from coatnet_zoo.network import MBConv
from coatnet_zoo.registry import SIZES

LAYOUTS = ['CCCC', 'CCCT', 'CCTT', 'CTTT']
COATNETS = [(s, i) for s in SIZES if s.startswith('coatnet') for i in list_impls(s)]
STAGES = dict(stem_width=(16, 32), embed_dim=(32, 32, 64, 96), depths=(1, 1, 2, 1), img_size=64, num_classes=10)


def kinds(model: nn.Module) -> list[set[str]]:
    return [{'C' if isinstance(block, MBConv) else 'T' for block in stage.blocks} for stage in model.stages]


@pytest.mark.parametrize('size, impl', COATNETS)
def test_every_size_and_implementation_has_every_layout(size: str, impl: str) -> None:
    """With the table's widths and depths; C-T-T-T is also built, two blocks a stage, around where widths change."""
    table = resolve_cfg(size, impl)
    for layout in LAYOUTS:
        cfg = resolve_cfg(size, impl, block_types=layout)
        assert (cfg.depths, cfg.stage_widths) == (table.depths, table.stage_widths)
        assert [set(types) for types in cfg.stage_types] == [{kind} for kind in layout]
    widths = [(w[0], w[-1]) for w in table.stage_widths]
    cfg = resolve_cfg(size, impl, block_types='CTTT', embed_dim=widths, depths=(2, 2, 2, 2))
    model = CoAtNet(cfg, 64, num_classes=5, device='meta').eval()
    assert model(torch.empty(2, 3, 64, 64, device='meta')).shape == (2, 5)


@pytest.mark.parametrize('layout', [*LAYOUTS, 'TTTT'])
@pytest.mark.parametrize('impl', ['timm', 'timm_rmlp', 'paper', 'chinhsuanwu', 'keras_cv'])
@torch.no_grad()
def test_layouts_run_and_optimise(impl: str, layout: str) -> None:
    model = randomize_(timm.create_model('coatnet_1', impl=impl, block_types=layout, **STAGES))
    assert kinds(model) == [{kind} for kind in layout]
    optimized = optimize_for_inference(model)
    for img_size in (64, (50, 80)):
        x = random_images(2, 3, img_size)
        expected = model(x)
        assert expected.std(dim=0).max() > 1e-2 * expected.abs().max()
        torch.testing.assert_close(optimized(x), expected, rtol=0, atol=1e-4)
    model.set_input_size(96)
    assert bool(model.no_weight_decay()) == ('T' in layout)


@pytest.mark.parametrize('layout', ['TCCC', 'CTCT', 'CCTC', 'TTTC', ('C', 'C', 'TC', 'T')], ids=str)
def test_convolution_after_attention_is_refused(layout) -> None:
    with pytest.raises(ValueError, match=r'Stage [123] has a convolutional block \(C\) after a Transformer') as e:
        timm.create_model('coatnet_1', block_types=layout, **STAGES)
    assert '\n' not in str(e.value) and str(e.value).endswith('such as CCCC, CCCT, CCTT or CTTT.')
