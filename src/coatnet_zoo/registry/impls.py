"""The implementations of CoAtNet as a table: how each differs from the paper, and where its code is.

Third-party code needs one row in this table and one file in `convert/adapters/` to have its checkpoints converted.
docs/implementations.md explains every difference.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

PAPER_URL = 'https://arxiv.org/abs/2106.04803'
_TIMM_URL = 'https://github.com/huggingface/pytorch-image-models'


@dataclass(frozen=True)
class ThirdPartyCode:
    """How the checkpoints of third-party code are read."""

    title: str  # the usual name of the code
    mapping: str  # the module that reads a structure from the tensors and maps them, see `convert.adapter.Adapter`
    magic: bytes = b''  # the first bytes of files that only the `read` of that module can read
    interpolation: str = 'bicubic'  # by which the evaluation of that code resizes images
    crop_pct: float = 0.875  # share of the resized image that the evaluation of that code crops
    assumed: str = ''  # what the code does that the tensors do not show, as forks of it change it


@dataclass(frozen=True)
class Implementation:
    """One implementation of CoAtNet."""

    url: str  # of the code or of the paper
    flavour: dict[str, Any] = field(default_factory=dict)  # fields of `CoAtNetCfg` that differ from the paper's
    # The sizes that the code has, each with the fields that differ. The rows of `SIZES` may name the implementation for
    # more sizes.
    sizes: dict[str, dict[str, Any]] = field(default_factory=dict)
    code: ThirdPartyCode | None = None  # if its tensors have other names than those of this package
    init: Literal['timm', 'torch', 'keras_cv'] = 'timm'  # scheme of the initial weights, see `network/init.py`


# The fields of each codebase by the part that they change: stem and head, MBConv, Transformer block, both.
_TIMM = dict(
    head_hidden=False,
    conv_act='silu', pre_norm_act=True, conv_expand_base='in', conv_stride='depthwise', conv_out_bias=False,
    se_base='mid', se_act='relu',
    attn_base='in',
    pool_type='avg2', shortcut_proj_always=False,
)  # fmt: skip
_CHINHSUANWU = dict(
    stem_norm_last=True, final_norm=False, head_hidden=False, head_bias=False,
    conv_expand_base='in', conv_out_bias=False, conv_out_norm=True, se_base='in', se_act='gelu', se_bias=False,
    norm_eps=1e-5, num_heads=8, attn_pool_first=True, attn_shortcut_bias=False, qkv_bias=False, mlp_base='in',
    pool_type='max',
)  # fmt: skip
_KERAS_CV = dict(
    final_norm=False, head_hidden=False,
    conv_expand_base='in', conv_stride='depthwise', conv_out_bias=False, se_base='in', se_divisor=8, se_act='gelu',
    norm_eps=1e-5, heads_round_down=True, attn_base='in', attn_shortcut_bias=False, qkv_bias=False, proj_bias=False,
    mlp_bias=False,
)  # fmt: skip

IMPLS: dict[str, Implementation] = {
    'paper': Implementation(PAPER_URL),
    'timm': Implementation(_TIMM_URL, _TIMM),
    'timm_bn': Implementation(_TIMM_URL, dict(_TIMM, norm_layer='batchnorm2d')),
    'timm_rmlp': Implementation(_TIMM_URL, dict(_TIMM, rel_pos_type='mlp')),
    'timm_rmlp2': Implementation(_TIMM_URL, dict(_TIMM, rel_pos_type='mlp')),
    'chinhsuanwu': Implementation(
        'https://github.com/chinhsuanwu/coatnet-pytorch',
        _CHINHSUANWU,
        sizes={f'coatnet_{i}': {} for i in range(5)} | {'coatnet_2': dict(embed_dim=(128, 256, 512, 1026))},
        # That code has no preprocessing; the usual preprocessing is assumed.
        code=ThirdPartyCode(
            'chinhsuanwu/coatnet-pytorch',
            'coatnet_zoo.convert.adapters.chinhsuanwu',
            assumed='GELU, max pooling, stride 2 in the stem and the first 1x1 convolution, eps 1e-05, logits from fc',
        ),
        init='torch',
    ),
    'keras_cv': Implementation(
        'https://github.com/leondgarse/keras_cv_attention_models',
        _KERAS_CV,
        sizes={f'coatnet_{i}': {} for i in range(8)}
        | {'coatnet_6': dict(embed_dim=(192, 384, (768,) * 8 + (1536,) * 42, 2048))},
        code=ThirdPartyCode(
            'keras_cv_attention_models',
            'coatnet_zoo.convert.adapters.keras_cv',
            magic=b'\x89HDF\r\n\x1a\n',
            crop_pct=0.95,
        ),
        init='keras_cv',
    ),
}
