"""Parameter counts and multiply-adds of every size and implementation, and what the configuration table refuses."""

from typing import Any

import pytest
import timm

from coatnet_zoo import CoAtNet, resolve_cfg
from scripts.counting import multiply_adds, num_params

CHINHSUANWU = [17_789_624, 33_170_624, 55_767_564, 117_724_480, 203_960_368]
KERAS_CV = [23_291_218, 40_458_862, 71_644_112, 160_181_188]  # with moving statistics
PAPER = [25e6, 42e6, 75e6, 168e6, 275e6, 688e6, 1.47e9, 2.44e9]


def build(size: str, impl: str, img_size: int = 224, **overrides: Any) -> CoAtNet:
    """A model on the meta device."""
    return CoAtNet(resolve_cfg(size, impl, **overrides), img_size, device='meta').eval()


@pytest.mark.parametrize('i', range(4))
def test_keras_cv_has_the_weights_of_its_code(i: int) -> None:
    model = build(f'coatnet_{i}', 'keras_cv')
    statistics = sum(b.numel() for name, b in model.named_buffers() if 'running' in name)
    assert num_params(model) + statistics == KERAS_CV[i]


# The numbers of the README of keras_cv_attention_models, at 512 pixels, and of the paper are rounded.
PARAMETERS = [
    *(('chinhsuanwu', 224, i, count, 0) for i, count in enumerate(CHINHSUANWU)),
    *(('keras_cv', 512, i, 1e6 * count, 5e3) for i, count in ((3, 161.24), (4, 270.69), (5, 676.23))),
    *(('keras_cv', 512, i, 1e6 * count, 5e5) for i, count in ((6, 1336), (7, 2413))),
    *(('paper', 224, i, count, count * (0.015 if i < 6 else 0.03)) for i, count in enumerate(PAPER)),
]


@pytest.mark.parametrize('impl, img_size, i, count, within', PARAMETERS)
def test_parameters(impl: str, img_size: int, i: int, count: float, within: float) -> None:
    assert num_params(build(f'coatnet_{i}', impl, img_size)) == pytest.approx(count, rel=0, abs=within)


# The second three are of the variant that strides later.
MULTIPLY_ADDS = [
    *(({}, i, count) for i, count in enumerate((4.2e9, 8.4e9, 15.7e9, 34.7e9))),
    *((dict(conv_stride='depthwise'), i, count) for i, count in enumerate((4.6e9, 8.8e9, 16.6e9))),
]


@pytest.mark.parametrize('options, i, count', MULTIPLY_ADDS)
def test_multiply_adds_are_those_of_the_paper(options: dict, i: int, count: float) -> None:
    assert multiply_adds(build(f'coatnet_{i}', 'paper', **options)) == pytest.approx(count, rel=0.03)


def test_stages_may_mix_types_and_widths() -> None:
    cfg = resolve_cfg('coatnet_6', 'paper')
    assert cfg.stage_types[2] == ('C',) * 8 + ('T',) * 42
    assert cfg.stage_widths[2] == (768,) * 8 + (1536,) * 42
    for block_types in (('C', 'C', 'CCTTT', 'T'), ['C', 'C', ['C', 'C', 'T', 'T', 'T'], 'T']):
        cfg = resolve_cfg('coatnet_0', 'paper', block_types=block_types)
        assert [''.join(types) for types in cfg.stage_types] == ['CC', 'CCC', 'CCTTT', 'TT']


@pytest.mark.parametrize(
    'override, message',
    [
        (dict(block_types='CCTX'), 'Stage 3'),
        (dict(block_types='CCT'), 'one entry per stage'),
        (dict(block_types=('C', 'C', 'CT', 'T')), 'Stage 2 has depth 5'),
        (dict(depths=(2, 0, 5, 2)), r'depths=\(2, 0, 5, 2\) must be a list, each a positive integer'),
        (dict(depths=(2, 500, 5, 2)), 'more than 500 layers'),
        (dict(qkv_bias=1), 'qkv_bias=1 must be True or False'),
        (dict(mlp_ratio=-4), 'mlp_ratio=-4 must be a positive number'),
        (dict(embed_dim=(96, 192, 384, 1026)), 'width 1026, not a multiple of the head dimension 32'),
        (dict(conv_stride='1x1'), "conv_stride='1x1' does not exist"),
        (dict(stem_width=()), 'stem_width'),
        (dict(dim_head=1024, num_heads=None, heads_round_down=True), 'one head of dimension dim_head=1024'),
        (dict(head_bias=False), 'need head_hidden=False'),
        (dict(attn_type='linear'), "needs rel_attn='none' and attn_window=None, got rel_attn='pre'"),
        (dict(attn_type='linear', rel_attn='none', attn_window=7), 'attn_window=7'),
        (dict(attn_type='linear', rel_attn='none', attn_drop_rate=0.1), 'use proj_drop_rate'),
        (dict(attn_window=True), 'attn_window=True must be a positive integer'),
        (dict(attn_window=15), r'attn_window=15 has no effect at img_size=\(224, 224\), .* at most 14x14 positions'),
        (dict(attn_window=7, block_types='CCCC'), 'see at most 0x0 positions'),
        (dict(patch_size=0, stem_width=96), 'patch_size=0 must be a positive integer'),
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
