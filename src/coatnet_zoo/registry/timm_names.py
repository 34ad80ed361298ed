"""timm's own CoAtNets as a table: the network of this package that computes the same, if there is one."""

from typing import Any

# timm's reading of the paper pools and strides in other ways than this package's reading.
_PAPER = dict(conv_stride='depthwise', pool_type='avg2', shortcut_proj_always=False)
_TEST = dict(stem_width=(16, 32), embed_dim=(32, 64, 96, 128), depths=(1, 1, 2, 1))

# By timm's name: the name in this package, the implementation, and additional arguments. None:
# timm's network has blocks that this package does not have.
TIMM_NAMES: dict[str, tuple[str, str, dict[str, Any]] | None] = {
    'coatnet_0_224': ('coatnet_0', 'paper', _PAPER),
    'coatnet_1_224': ('coatnet_1', 'paper', _PAPER),
    'coatnet_2_224': ('coatnet_2', 'paper', _PAPER),
    'coatnet_3_224': ('coatnet_3', 'paper', _PAPER),
    'coatnet_4_224': ('coatnet_4', 'paper', _PAPER),
    'coatnet_5_224': ('coatnet_5', 'paper', dict(_PAPER, dim_head=32)),
    'coatnet_pico_rw_224': ('coatnet_nano', 'timm', dict(depths=(2, 3, 5, 2), conv_stride='depthwise')),
    'coatnet_nano_rw_224': ('coatnet_nano', 'timm', {}),
    'coatnet_0_rw_224': ('coatnet_0', 'timm', {}),
    'coatnet_1_rw_224': ('coatnet_1', 'timm', {}),
    'coatnet_2_rw_224': ('coatnet_2', 'timm', {}),
    'coatnet_3_rw_224': ('coatnet_3', 'timm', {}),
    'coatnet_bn_0_rw_224': ('coatnet_0', 'timm_bn', {}),
    'coatnet_rmlp_nano_rw_224': ('coatnet_nano', 'timm_rmlp', {}),
    'coatnet_rmlp_0_rw_224': (
        'coatnet_0',
        'timm',
        dict(conv_stride='depthwise', se_early=False, attn_shortcut_bias=True, rel_pos_type='mlp'),
    ),
    'coatnet_rmlp_1_rw_224': ('coatnet_1', 'timm_rmlp', {}),
    'coatnet_rmlp_1_rw2_224': ('coatnet_1', 'timm_rmlp2', {}),
    'coatnet_rmlp_2_rw_224': ('coatnet_2', 'timm_rmlp', {}),
    'coatnet_rmlp_2_rw_384': ('coatnet_2', 'timm_rmlp', {}),
    'coatnet_rmlp_3_rw_224': ('coatnet_3', 'timm', dict(rel_pos_type='mlp')),
    'test_coatnet': ('coatnet_nano', 'timm', _TEST),
    'coatnet_nano_cc_224': None,
    'coatnext_nano_rw_224': None,
}
# timm's default tags, where the tag is not the first that `WEIGHTS` has.
TIMM_DEFAULTS = {'coatnet_rmlp_2_rw_224': 'sw_in12k_ft_in1k'}
