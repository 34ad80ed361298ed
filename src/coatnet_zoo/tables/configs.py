"""The configurations of every CoAtNet as data: one table of sizes, one of implementations.

`resolve_cfg(size, impl, **overrides)` is the only way from a name to a `CoAtNetCfg`. What each implementation does
differently, and which reading of the paper `paper` takes, is explained in docs/implementations.md.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

PerBlock = tuple[Any, ...]


@dataclass(frozen=True)
class CoAtNetCfg:
    """Structure of one CoAtNet: the stages, then the flavour of its blocks. The defaults are the paper's.

    Stage lists have one entry a stage; an entry that is itself a list has one value a block.

    Raises:
        ValueError: If stage lists disagree in length, or a value is not one of those that exist.
    """

    impl: str = 'paper'

    # Stages
    stem_width: tuple[int, ...] = (64, 64)  # one convolution each, the first with stride 2
    embed_dim: tuple[int | tuple[int, ...], ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 3, 5, 2)
    block_types: str | PerBlock = 'CCTT'  # C: MBConv, T: Transformer, which no C may follow

    # Stem and head
    patch_size: int | None = None  # the stem is one convolution of patches of this size, and stages do not stride
    stem_bias: bool = False
    stem_norm_last: bool = False  # norm and activation after the last stem convolution, too
    final_norm: bool = True
    head_hidden: bool = True  # a hidden layer of the last width between pooling and classifier; norms before it
    head_bias: bool = True

    # MBConv
    conv_act: Literal['gelu', 'silu', 'relu'] = 'gelu'
    conv_norm_eps: float = 1e-5
    pre_norm_act: bool = False  # activation after the pre-norm
    conv_expand_ratio: float = 4.0
    conv_expand_base: Literal['in', 'out'] = 'out'  # which width the expansion multiplies
    conv_stride: Literal['expand', 'depthwise', 'pool'] = 'expand'  # which layer of the branch strides
    conv_out_bias: bool = True  # last projection and shortcut
    conv_out_norm: bool = False  # batch norm after the last projection
    se_ratio: float = 0.25
    se_base: Literal['in', 'mid', 'out'] = 'out'  # which width the ratio multiplies
    se_divisor: int | None = None  # round the product to a multiple of this; None: round it down
    se_act: Literal['gelu', 'silu', 'relu'] = 'silu'
    se_bias: bool = True
    se_early: bool = False  # squeeze-excite before the second norm instead of after it

    # Transformer block
    norm_layer: Literal['layernorm2d', 'batchnorm2d'] = 'layernorm2d'  # final norm, too
    norm_eps: float = 1e-6
    dim_head: int = 32
    num_heads: int | None = None  # None: width / dim_head
    heads_round_down: bool = False  # allow a width that heads do not divide
    attn_base: Literal['in', 'out'] = 'out'  # which width the heads are counted from in a block that widens
    attn_pool_first: bool = False  # pool before the norm instead of after it
    attn_shortcut_bias: bool = True
    qkv_bias: bool = True
    proj_bias: bool = True
    rel_pos_type: Literal['bias', 'mlp'] = 'bias'
    rel_pos_dim: int = 512  # hidden width of rel_pos_type='mlp'
    rel_attn: Literal['pre', 'post', 'none'] = 'pre'  # the relative bias is inside the softmax, after it, or left out
    attn_window: int | None = None  # attend within windows of this side
    attn_type: Literal['softmax', 'linear'] = 'softmax'
    mlp_ratio: float = 4.0
    mlp_base: Literal['in', 'out'] = 'out'  # which width the ratio multiplies
    mlp_bias: bool = True
    init_values: float | None = None  # layer scale

    # Both
    pool_type: Literal['max', 'max2', 'avg2'] = 'max2'
    shortcut_proj_always: bool = True  # project the shortcut even where the width stays

    def __post_init__(self) -> None:
        # JSON and command lines give lists, and timm's stem_width may be one number.
        def as_tuple(value: Any) -> Any:
            return tuple(as_tuple(v) for v in value) if isinstance(value, (list, tuple)) else value

        for name in ('stem_width', 'embed_dim', 'depths', 'block_types'):
            object.__setattr__(self, name, as_tuple(getattr(self, name)))
        if isinstance(self.stem_width, int):
            object.__setattr__(self, 'stem_width', (self.stem_width,) * (2 if self.patch_size is None else 1))
        for f in dataclasses.fields(self):
            choices = getattr(f.type, '__args__', ()) if getattr(f.type, '__origin__', None) is Literal else ()
            if choices and getattr(self, f.name) not in choices:
                raise ValueError(f'{f.name}={getattr(self, f.name)!r} does not exist; choose one of {choices}.')
        if self.head_hidden and not (self.final_norm and self.head_bias):
            raise ValueError(
                'head_hidden has a norm and a bias; final_norm=False or head_bias=False need head_hidden=False.'
            )
        if not self.stem_width:
            raise ValueError('stem_width must have at least one width.')
        if not len(self.embed_dim) == len(self.depths) == len(self.block_types):
            raise ValueError(
                'embed_dim, depths and block_types must have one entry a stage, '
                f'got {len(self.embed_dim)}, {len(self.depths)} and {len(self.block_types)}.'
            )
        self._check_patches()
        self._check_layout()
        self._check_heads()
        self._check_attention()

    def _check_patches(self) -> None:
        if self.patch_size is None:
            return
        if not _is_positive(self.patch_size):
            raise ValueError(f'patch_size={self.patch_size!r} must be a positive whole number, or None.')
        if len(self.stem_width) > 1 or self.stem_norm_last:
            raise ValueError(
                f'With patch_size={self.patch_size} the stem is one convolution: stem_width={self.stem_width} must '
                'have one width, and stem_norm_last must be False.'
            )

    def _check_layout(self) -> None:
        before = 'C'
        for stage, (types, widths) in enumerate(zip(self.stage_types, self.stage_widths, strict=True)):
            depth = self.depths[stage]
            if depth < 1 or len(types) != depth or len(widths) != depth or set(types) - set('CT'):
                raise ValueError(
                    f'Stage {stage} has depth {depth}, block types {types} and widths {widths}: '
                    "give it at least one block, types from 'C' and 'T', and one value or one a block."
                )
            for kind in types:
                if before + kind == 'TC':
                    raise ValueError(
                        f'Stage {stage} has a convolutional block (C) after a Transformer block (T); give a layout '
                        'whose C come first, such as CCCC, CCCT, CCTT or CTTT.'
                    )
                before = kind

    def _check_heads(self) -> None:
        dim = self.stem_width[-1]
        for stage, (types, widths) in enumerate(zip(self.stage_types, self.stage_widths, strict=True)):
            for kind, width in zip(types, widths, strict=True):
                if kind == 'T' and self.num_heads is None:
                    if width % self.dim_head and not self.heads_round_down:
                        raise ValueError(
                            f'Stage {stage} has width {width}, which heads of size dim_head={self.dim_head} do not '
                            'divide.'
                        )
                    base = dim if self.attn_base == 'in' else width
                    if base < self.dim_head:
                        raise ValueError(
                            f'Stage {stage} takes its heads from width {base}, which is too narrow for one of size '
                            f'dim_head={self.dim_head}.'
                        )
                dim = width

    def _check_attention(self) -> None:
        if self.attn_type == 'linear' and (self.rel_attn != 'none' or self.attn_window is not None):
            raise ValueError(
                "attn_type='linear' has neither a relative bias nor windows; it needs rel_attn='none' and "
                f'attn_window=None, got rel_attn={self.rel_attn!r} and attn_window={self.attn_window!r}.'
            )
        if self.attn_window is None:
            return
        if not _is_positive(self.attn_window):
            raise ValueError(
                f'attn_window={self.attn_window!r} must be a positive whole number, the side of a window in positions, '
                'or None for attention over the whole feature map.'
            )
        if not any('T' in types for types in self.stage_types):
            raise ValueError(
                f'attn_window={self.attn_window} is for Transformer blocks (T), of which block_types has none; leave '
                'out one of them.'
            )

    @property
    def stage_stride(self) -> int:
        """Stride of a stage's first block."""
        return 2 if self.patch_size is None else 1

    @property
    def stage_types(self) -> list[PerBlock]:
        """Block type of every block, a tuple a stage."""
        return [_per_block(entry, depth) for entry, depth in zip(self.block_types, self.depths, strict=True)]

    @property
    def stage_widths(self) -> list[PerBlock]:
        """Output width of every block, a tuple a stage."""
        return [_per_block(entry, depth) for entry, depth in zip(self.embed_dim, self.depths, strict=True)]


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _per_block(entry: Any, depth: int) -> PerBlock:
    if isinstance(entry, tuple) or (isinstance(entry, str) and len(entry) > 1):
        return tuple(entry)
    return (entry,) * depth


STRUCTURE_FIELDS = ('stem_width', 'embed_dim', 'depths', 'block_types')

# Flavours of the blocks: what differs from CoAtNetCfg's defaults (the paper's).
_TIMM = dict(
    head_hidden=False,
    conv_act='silu',
    pre_norm_act=True,
    conv_expand_base='in',
    conv_stride='depthwise',
    conv_out_bias=False,
    se_base='mid',
    se_act='relu',
    attn_base='in',
    pool_type='avg2',
    shortcut_proj_always=False,
)
_CHINHSUANWU = dict(
    stem_norm_last=True,
    final_norm=False,
    head_hidden=False,
    head_bias=False,
    conv_expand_base='in',
    conv_out_bias=False,
    conv_out_norm=True,
    se_base='in',
    se_act='gelu',
    se_bias=False,
    norm_eps=1e-5,
    num_heads=8,
    attn_pool_first=True,
    attn_shortcut_bias=False,
    qkv_bias=False,
    mlp_base='in',
    pool_type='max',
)
_KERAS_CV = dict(
    final_norm=False,
    head_hidden=False,
    conv_expand_base='in',
    conv_stride='depthwise',
    conv_out_bias=False,
    se_base='in',
    se_divisor=8,
    se_act='gelu',
    norm_eps=1e-5,
    heads_round_down=True,
    attn_base='in',
    attn_shortcut_bias=False,
    qkv_bias=False,
    proj_bias=False,
    mlp_bias=False,
)
IMPLS: dict[str, dict[str, Any]] = {
    'paper': {},
    'timm': _TIMM,
    'timm_bn': dict(_TIMM, norm_layer='batchnorm2d'),
    'timm_rmlp': dict(_TIMM, rel_pos_type='mlp'),
    'timm_rmlp2': dict(_TIMM, rel_pos_type='mlp'),
    'chinhsuanwu': _CHINHSUANWU,
    'keras_cv': _KERAS_CV,
}


# ViT_REL as large as timm's vit_*_patch16, in four parts as all the others: patches for convolutions, a ViT's head.
def _vit_rel(width: int) -> dict[str, Any]:
    return dict(
        stem_width=(width,),
        embed_dim=(width,) * 4,
        depths=(3, 3, 3, 3),
        block_types='TTTT',
        patch_size=16,
        stem_bias=True,
        head_hidden=False,
        dim_head=64,
    )


# timm changed details between trainings; these sets recur below.
_TIMM_EARLY = dict(se_early=True, attn_shortcut_bias=False)
_TIMM_NANO = dict(pre_norm_act=False, conv_out_bias=True, se_act='silu')
_TIMM_NANO_STAGES = dict(stem_width=(32, 64), embed_dim=(64, 128, 256, 512), depths=(3, 4, 6, 3))
_TIMM_STEM = dict(stem_width=(32, 64))

# Every size: its stages, then, per implementation, what differs from those stages and from the flavour above.
# The first implementation of a size is its default.
SIZES: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    'coatnet_atto': (
        dict(stem_width=(16, 16), embed_dim=(16, 32, 64, 96), depths=(1, 2, 2, 2)),
        {'paper': {}},
    ),
    'coatnet_nano': (
        _TIMM_NANO_STAGES,
        {
            'timm': dict(_TIMM_NANO, conv_stride='pool'),
            'timm_rmlp': dict(_TIMM_NANO, rel_pos_dim=384),
        },
    ),
    'coatnet_0': (
        dict(stem_width=(64, 64), embed_dim=(96, 192, 384, 768), depths=(2, 3, 5, 2)),
        {
            'timm': dict(_TIMM_STEM, **_TIMM_EARLY, depths=(2, 3, 7, 2), conv_stride='pool'),
            'timm_bn': dict(_TIMM_STEM, **_TIMM_EARLY, depths=(2, 3, 7, 2)),
            'paper': {},
            'chinhsuanwu': {},
            'keras_cv': {},
        },
    ),
    'coatnet_1': (
        dict(stem_width=(64, 64), embed_dim=(96, 192, 384, 768), depths=(2, 6, 14, 2)),
        {
            'timm': dict(_TIMM_STEM, **_TIMM_EARLY),
            'timm_rmlp': dict(_TIMM_STEM, **_TIMM_EARLY, conv_stride='pool', pool_type='max', rel_pos_dim=384),
            'timm_rmlp2': _TIMM_STEM,
            'paper': {},
            'chinhsuanwu': {},
            'keras_cv': {},
        },
    ),
    'coatnet_2': (
        dict(stem_width=(128, 128), embed_dim=(128, 256, 512, 1024), depths=(2, 6, 14, 2)),
        {
            'timm': dict(stem_width=(64, 128), se_act='silu'),
            'timm_rmlp': dict(stem_width=(64, 128), se_act='silu', init_values=1e-6),
            'paper': {},
            'chinhsuanwu': dict(embed_dim=(128, 256, 512, 1026)),
            'keras_cv': {},
        },
    ),
    'coatnet_3': (
        dict(stem_width=(192, 192), embed_dim=(192, 384, 768, 1536), depths=(2, 6, 14, 2)),
        {
            'timm': dict(stem_width=(96, 192), se_act='silu', init_values=1e-6),
            'paper': {},
            'chinhsuanwu': {},
            'keras_cv': {},
        },
    ),
    'coatnet_4': (
        dict(stem_width=(192, 192), embed_dim=(192, 384, 768, 1536), depths=(2, 12, 28, 2)),
        {'paper': {}, 'chinhsuanwu': {}, 'keras_cv': {}},
    ),
    'coatnet_5': (
        dict(stem_width=(192, 192), embed_dim=(256, 512, 1280, 2048), depths=(2, 12, 28, 2), dim_head=64),
        {'paper': {}, 'keras_cv': {}},
    ),
    'coatnet_6': (
        dict(
            stem_width=(192, 192),
            # The paper prints 2048 for the last width, but its parameters and multiply-adds are those of 3072.
            embed_dim=(192, 384, (768,) * 8 + (1536,) * 42, 3072),
            depths=(2, 4, 50, 2),
            block_types=('C', 'C', 'C' * 8 + 'T' * 42, 'T'),
            dim_head=128,
        ),
        {'paper': {}, 'keras_cv': dict(embed_dim=(192, 384, (768,) * 8 + (1536,) * 42, 2048))},
    ),
    'coatnet_7': (
        dict(
            stem_width=(192, 192),
            embed_dim=(256, 512, (1024,) * 8 + (2048,) * 42, 3072),
            depths=(2, 4, 50, 2),
            block_types=('C', 'C', 'C' * 8 + 'T' * 42, 'T'),
            dim_head=128,
        ),
        {'paper': {}, 'keras_cv': {}},
    ),
    'vit_rel_tiny': (_vit_rel(192), {'paper': {}}),
    'vit_rel_small': (_vit_rel(384), {'paper': {}}),
    'vit_rel_base': (_vit_rel(768), {'paper': {}}),
}


def list_impls(size: str) -> list[str]:
    """The implementations that a size has, the default first.

    Args:
        size: Registered name without tag, e.g. `coatnet_1`.
    """
    return list(SIZES[size][1])


def resolve_cfg(size: str, impl: str, **overrides: Any) -> CoAtNetCfg:
    """The configuration of a size in an implementation.

    Args:
        size: Registered name without tag, e.g. `coatnet_1`.
        impl: Implementation, one of `list_impls(size)`.
        **overrides: Fields of `CoAtNetCfg` that replace the table's.

    Raises:
        ValueError: If the size has no such implementation, or a value is bad.
        TypeError: If an override is not a field of `CoAtNetCfg`.
    """
    stages, impls = SIZES[size]
    if impl not in impls:
        raise ValueError(f'{size} has no impl={impl!r}; it has {", ".join(impls)}.')
    known = {f.name for f in dataclasses.fields(CoAtNetCfg)} - {'impl'}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise TypeError(
            f'{size} has no argument {", ".join(unknown)}; structural arguments are {", ".join(sorted(known))}.'
        )
    return CoAtNetCfg(impl=impl, **{**IMPLS[impl], **stages, **impls[impl], **overrides})
