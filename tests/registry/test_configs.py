"""Parameter counts and multiply-adds of every size and implementation, and what the configuration table refuses."""

import pytest
import timm
import torch

from coatnet_zoo import CoAtNet, list_impls, resolve_cfg
from coatnet_zoo.network import multiply_adds, num_params
from coatnet_zoo.registry import SIZES

CHINHSUANWU = [17_789_624, 33_170_624, 55_767_564, 117_724_480, 203_960_368]
KERAS_CV = [23_291_218, 40_458_862, 71_644_112, 160_181_188]  # with moving statistics
TIMM = {
    'coatnet_nano': ('coatnet_nano_rw_224', 15_141_244),
    'coatnet_0': ('coatnet_0_rw_224', 27_435_562),
    'coatnet_1': ('coatnet_1_rw_224', 41_721_502),
    'coatnet_2': ('coatnet_2_rw_224', 73_868_400),
    'coatnet_3': ('coatnet_3_rw_224', 181_805_305),
}
PAPER = [25e6, 42e6, 75e6, 168e6, 275e6, 688e6, 1.47e9, 2.44e9]


def build(size: str, impl: str, img_size: int = 224, num_classes: int = 1000, **overrides) -> CoAtNet:
    """A model on the meta device."""
    return CoAtNet(resolve_cfg(size, impl, **overrides), img_size, num_classes=num_classes, device='meta')


@pytest.mark.parametrize('i', range(5))
def test_chinhsuanwu_has_the_parameters_of_its_code(i: int) -> None:
    assert num_params(build(f'coatnet_{i}', 'chinhsuanwu')) == CHINHSUANWU[i]


@pytest.mark.parametrize('i', range(4))
def test_keras_cv_has_the_weights_of_its_code(i: int) -> None:
    model = build(f'coatnet_{i}', 'keras_cv')
    statistics = sum(b.numel() for name, b in model.named_buffers() if 'running' in name)
    assert num_params(model) + statistics == KERAS_CV[i]


# From the README of keras_cv_attention_models, in millions.
@pytest.mark.parametrize('i, published', [(3, 161.24), (4, 270.69), (5, 676.23), (6, 1336), (7, 2413)])
def test_keras_cv_has_the_parameters_of_its_readme_at_512_pixels(i: int, published: float) -> None:
    model = build(f'coatnet_{i}', 'keras_cv', img_size=512)
    assert num_params(model) / 1e6 == pytest.approx(published, abs=0.005 if i < 6 else 0.5)


@pytest.mark.parametrize('size', TIMM)
def test_timm_has_the_parameters_of_timm(size: str) -> None:
    name, expected = TIMM[size]
    theirs = timm.create_model(name, device='meta')
    ours = timm.create_model(size, device='meta')
    assert num_params(ours) == num_params(theirs) == expected


@pytest.mark.parametrize('i', range(8))
def test_paper_has_the_parameters_of_the_paper(i: int) -> None:
    tolerance = 0.015 if i < 6 else 0.03
    assert num_params(build(f'coatnet_{i}', 'paper')) == pytest.approx(PAPER[i], rel=tolerance)


@pytest.mark.parametrize(
    'i, stride, expected',
    [(i, 'expand', macs) for i, macs in enumerate([4.2e9, 8.4e9, 15.7e9, 34.7e9])]
    + [(i, 'depthwise', macs) for i, macs in enumerate([4.6e9, 8.8e9, 16.6e9])],
)
def test_paper_has_the_multiply_adds_of_the_paper(i: int, stride: str, expected: float) -> None:
    model = build(f'coatnet_{i}', 'paper', conv_stride=stride)
    assert multiply_adds(model.eval()) == pytest.approx(expected, rel=0.03)


def test_atto_is_below_one_million_parameters() -> None:
    assert num_params(timm.create_model('coatnet_atto')) < 1e6


@pytest.mark.parametrize('size, impl', [(s, i) for s in SIZES for i in list_impls(s)])
def test_every_size_and_implementation_runs(size: str, impl: str) -> None:
    model = build(size, impl, img_size=64, num_classes=5)
    assert model(torch.empty(2, 3, 64, 64, device='meta')).shape == (2, 5)


def test_coatnet_6_mixes_types_and_widths_inside_a_stage() -> None:
    cfg = resolve_cfg('coatnet_6', 'paper')
    assert cfg.stage_types[2] == ('C',) * 8 + ('T',) * 42
    assert cfg.stage_widths[2] == (768,) * 8 + (1536,) * 42


@pytest.mark.parametrize('block_types', ['CCCC', 'CCCT', 'CTTT', ('C', 'C', 'CCTTT', 'T'), ['C', 'C', ['C'] * 5, 'T']])
def test_block_types_replace_the_layout(block_types) -> None:
    model = timm.create_model('coatnet_0', impl='paper', block_types=block_types, device='meta')
    kinds = [''.join('C' if type(b).__name__ == 'MBConv' else 'T' for b in s.blocks) for s in model.stages]
    per_block = [e * d if len(e) == 1 else ''.join(e) for e, d in zip(block_types, (2, 3, 5, 2), strict=True)]
    assert kinds == per_block
    assert model(torch.empty(1, 3, 224, 224, device='meta')).shape == (1, 1000)


@pytest.mark.parametrize(
    'override, message',
    [
        (dict(block_types='CCTX'), 'Stage 3'),
        (dict(block_types='CCT'), 'one entry a stage'),
        (dict(block_types=('C', 'C', 'CT', 'T')), 'Stage 2 has depth 5'),
        (dict(depths=(2, 0, 5, 2)), 'at least one block'),
        (dict(embed_dim=(96, 192, 384, 1026)), 'dim_head=32'),
        (dict(conv_stride='1x1'), "conv_stride='1x1' does not exist"),
        (dict(pool_type='min'), "pool_type='min' does not exist"),
        (dict(stem_width=()), 'stem_width'),
        (dict(dim_head=1024, num_heads=None, heads_round_down=True), 'too narrow for one of size dim_head=1024'),
        (dict(head_bias=False), 'need head_hidden=False'),
        (dict(block_types='CTCT'), r'Stage 2 has a convolutional block \(C\) after a Transformer block'),
        (dict(block_types=('C', 'C', 'TTTCT', 'T')), 'Stage 2 has a convolutional block .* such as CCCC, CCCT, CCTT'),
        (dict(rel_attn='both'), "rel_attn='both' does not exist"),
        (dict(attn_type='cosine'), "attn_type='cosine' does not exist"),
        (dict(attn_type='linear'), "needs rel_attn='none' and attn_window=None, got rel_attn='pre'"),
        (dict(attn_type='linear', rel_attn='none', attn_window=7), 'attn_window=7'),
        (dict(attn_type='linear', rel_attn='none', attn_drop_rate=0.1), 'use proj_drop_rate'),
        (dict(attn_window=0), 'attn_window=0 must be a positive whole number'),
        (dict(attn_window=7.0), 'attn_window=7.0 must be a positive whole number'),
        (dict(attn_window=(7, 7)), r'attn_window=\(7, 7\) must be a positive whole number'),
        (dict(attn_window=True), 'attn_window=True must be a positive whole number'),
        (dict(attn_window=15), r'attn_window=15 has no effect at img_size=\(224, 224\), .* at most 14x14 positions'),
        (dict(attn_window=7, block_types='CCCC'), 'of which block_types has none'),
        (dict(patch_size=0, stem_width=96), 'patch_size=0 must be a positive whole number'),
        (dict(patch_size=16), r'stem_width=\(64, 64\) must have one width'),
    ],
)
def test_bad_structures_are_refused(override: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as e:
        timm.create_model('coatnet_0', impl='paper', **override)
    assert '\n' not in str(e.value)


def test_unknown_arguments_are_refused_with_a_list() -> None:
    with pytest.raises(TypeError, match=r'coatnet_0 has no argument embed_dims; structural arguments are .*embed_dim'):
        resolve_cfg('coatnet_0', 'paper', embed_dims=(1, 2, 3, 4))
