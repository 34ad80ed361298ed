"""`output_stride`: the features of the network that strides and, between these, its features of shifted maps."""

from pathlib import Path

import pytest
import timm
import torch
from peers import assert_close, assert_saved_and_resized, random_images, randomize_
from torch import nn

from coatnet_zoo import optimize_for_inference

SMALL = dict(stem_width=(8, 16), embed_dim=(16, 32, 32, 64), depths=(1, 1, 2, 1), img_size=64, num_classes=10)
IMPLS = ['timm', 'timm_rmlp', 'timm_rmlp2', 'timm_bn', 'paper', 'chinhsuanwu', 'keras_cv']
ODD = (50, 97)


def create(impl: str = 'timm', **kwargs) -> nn.Module:
    size = 'coatnet_0' if impl == 'timm_bn' else 'coatnet_1'
    return randomize_(timm.create_model(size, impl=impl, **{**SMALL, **kwargs}))


@torch.inference_mode()
@pytest.mark.parametrize('stride', [16, 8])
@pytest.mark.parametrize(
    'impl, options, sizes',
    [
        *[(impl, {}, (64, (80, 48), ODD, 32)) for impl in IMPLS],
        *[(impl, dict(block_types='CCCC'), (64, 128)) for impl in ('timm', 'paper', 'chinhsuanwu', 'keras_cv')],
        ('paper', dict(block_types='CTTT', rel_attn='post'), (64, ODD)),
        ('paper', dict(attn_window=3), (64, ODD)),
        ('paper', dict(rel_attn='none', attn_type='linear'), (64, ODD)),
        ('timm', dict(conv_stride='pool', block_types='CCCT'), (64, ODD)),
    ],
    ids=str,
)
def test_every_nth_position_is_as_before(impl: str, options: dict, sizes: tuple, stride: int) -> None:
    before, model = create(impl, **options), create(impl, output_stride=stride, **options)
    n = 32 // stride
    for size in sizes:
        x = random_images(2, 3, size)
        features = model.forward_features(x)
        assert features.shape[2:] == tuple(-(-side // stride) for side in x.shape[2:])
        assert_close(features[:, :, ::n, ::n], before.forward_features(x), rel=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize('types', ['CCTT', 'CCCC'])
@pytest.mark.parametrize('index, phases', [(2, 2), (3, 4)])
def test_other_positions_are_those_of_the_shifted_map(types: str, index: int, phases: int) -> None:
    strides = create('paper', block_types=types).stages[index]
    model = create('paper', block_types=types, output_stride=8).stages[index]
    x = torch.randn(2, SMALL['embed_dim'][index - 1], 8, 12)
    features, step = model(x), phases // 2
    for i in range(phases):
        for j in range(phases):
            shifted = strides(x[:, :, i::step, j::step])
            assert_close(features[:, :, i::phases, j::phases], shifted, rel=1e-5)


@pytest.mark.parametrize('stride, reductions', [(32, [2, 4, 8, 16, 32]), (16, [2, 4, 8, 16, 16]), (8, [2, 4, 8, 8, 8])])
def test_features_only(stride: int, reductions: list[int]) -> None:
    extractor = timm.create_model('coatnet_1', features_only=True, output_stride=stride, **SMALL)
    assert extractor.feature_info.reduction() == reductions
    for size in (64, ODD):
        x = random_images(2, 3, size)
        found = [f.shape[2:] for f in extractor(x)]
        assert found == [tuple(-(-side // reduction) for side in x.shape[2:]) for reduction in reductions]


@pytest.mark.parametrize('impl', ['timm', 'chinhsuanwu'])
def test_saved_and_resized(impl: str, tmp_path: Path) -> None:
    model = create(impl, output_stride=16)
    changed = assert_saved_and_resized(model, tmp_path, (96, 128))
    assert changed.forward_features(random_images(2, 3, 64)).shape[2:] == (4, 4)
    for stride in (8, 32):  # weights do not depend on the stride
        other = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, output_stride=stride).eval()
        assert other.forward_features(random_images(2, 3, 64)).shape[2:] == (64 // stride, 64 // stride)
        other.load_state_dict(model.state_dict())


@pytest.mark.parametrize('checkpointing', [False, True])
def test_training(checkpointing: bool) -> None:
    model = create(output_stride=8, drop_path_rate=0.1).train()
    model.set_grad_checkpointing(checkpointing)
    model(random_images(2, 3, ODD)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_graphs() -> None:
    structure = dict(output_stride=8, block_types='CCT', embed_dim=(16, 32, 32), depths=(1, 1, 1))
    model, x = create(**structure), random_images(2, 3, ODD)
    expected = model(x)
    dynamic = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    graphs = [
        torch.jit.script(model),
        torch.jit.trace(model, x),
        torch.fx.symbolic_trace(model),
        torch.export.export(model, (random_images(3, 3, 64),), dynamic_shapes=(dynamic,)).module(),
        optimize_for_inference(create(**structure)),
    ]
    for graph in graphs:
        assert_close(graph(x), expected, rel=1e-4)


@pytest.mark.parametrize('value', [7, 64, 4, 0, 16.0, '16', True])
def test_other_values(value: object) -> None:
    with pytest.raises(ValueError, match=rf'output_stride={value!r} must be one of \(8, 16, 32\) or None.'):
        timm.create_model('coatnet_1', output_stride=value)


def test_other_layouts() -> None:
    five = dict(depths=(1,) * 5, embed_dim=(32,) * 5, block_types='CCCTT')
    for options in (dict(patch_size=8, stem_width=64), five):
        with pytest.raises(ValueError, match='output_stride=16 is for up to four stages that halve the resolution'):
            timm.create_model('coatnet_0', output_stride=16, **options)
