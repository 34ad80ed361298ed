"""The structure of one CoAtNet as a record, and the checks that a structure has to pass.

docs/implementations.md says what each implementation does differently, and how `paper` reads the paper.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

from .checks import Count, Epsilon, Patch, Positive, check, short
from .grids import feature_sizes

PerBlock = tuple[Any, ...]
Activation = Literal['gelu', 'silu', 'relu']
# Far above any network, and low enough that torch can count the values of every tensor.
_LARGEST_NUMBER = 1 << 20
_MOST_LAYERS = 2_000  # convolutions of the stem, and blocks


@dataclass(frozen=True)
class CoAtNetCfg:
    """The stages of one CoAtNet, then the details of its blocks. The defaults are those of the paper.

    A list of stages has one entry per stage. An entry that is a list has one value per block.

    Raises:
        ValueError: If lists of stages have different lengths, or if a value has the wrong type or is not allowed.
    """

    impl: str = 'paper'

    # Stages
    stem_width: tuple[Count, ...] = (64, 64)  # one convolution each, the first with stride 2
    embed_dim: tuple[Count | tuple[Count, ...], ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 3, 5, 2)
    block_types: str | tuple[str | tuple[str, ...], ...] = 'CCTT'  # C: MBConv; T: Transformer; no C follows a T
    output_stride: Literal[8, 16, 32] | None = None  # stages that would reach more keep the resolution; see `phases`

    # Stem and head
    patch_size: Patch | None = None  # the stem is one convolution of patches of this size; stages do not stride
    stem_bias: bool = False
    stem_norm_last: bool = False  # norm and activation also after the last stem convolution
    final_norm: bool = True
    head_hidden: bool = True  # norm, then a hidden layer of the last width, between pooling and classifier
    head_bias: bool = True

    # MBConv
    conv_act: Activation = 'gelu'
    conv_norm_eps: Epsilon = 1e-5
    pre_norm_act: bool = False  # activation after the pre-norm
    conv_expand_ratio: Positive = 4.0
    conv_expand_base: Literal['in', 'out'] = 'out'  # which width the expansion multiplies
    conv_stride: Literal['expand', 'depthwise', 'pool'] = 'expand'  # which layer of the branch strides
    conv_out_bias: bool = True  # last projection and shortcut
    conv_out_norm: bool = False  # batch norm after the last projection
    se_ratio: Positive = 0.25
    se_base: Literal['in', 'mid', 'out'] = 'out'  # which width the ratio multiplies
    se_divisor: Count | None = None  # round the product to a multiple of this number; None: round the product down
    se_act: Activation = 'silu'
    se_bias: bool = True
    se_early: bool = False  # squeeze-excite before the second norm instead of after it

    # Transformer block
    norm_layer: Literal['layernorm2d', 'batchnorm2d'] = 'layernorm2d'  # the final norm is of this type, too
    norm_eps: Epsilon = 1e-6
    dim_head: Count = 32
    num_heads: Count | None = None  # None: width / dim_head
    heads_round_down: bool = False  # allow a width that heads do not divide
    attn_base: Literal['in', 'out'] = 'out'  # which width the heads are counted from in a block that widens
    attn_pool_first: bool = False  # pool before the norm instead of after it
    attn_shortcut_bias: bool = True
    qkv_bias: bool = True
    proj_bias: bool = True
    rel_pos_type: Literal['bias', 'mlp'] = 'bias'
    rel_pos_dim: Count = 512  # hidden width of rel_pos_type='mlp'
    rel_attn: Literal['pre', 'post', 'none'] = 'pre'  # add the relative bias before the softmax, after it, or never
    attn_window: Count | None = None  # attend within windows of this side, in positions; None: over the whole map
    attn_type: Literal['softmax', 'linear'] = 'softmax'
    mlp_ratio: Positive = 4.0
    mlp_base: Literal['in', 'out'] = 'out'  # which width the ratio multiplies
    mlp_bias: bool = True
    init_values: float | None = None  # layer scale

    # Both
    pool_type: Literal['max', 'max2', 'avg2'] = 'max2'
    shortcut_proj_always: bool = True  # project the shortcut even where the width stays

    def __post_init__(self) -> None:
        # JSON and command lines give lists, and timm's stem_width may be one number.
        for name in ('stem_width', 'embed_dim', 'depths', 'block_types'):
            object.__setattr__(self, name, _as_tuple(getattr(self, name)))
        if isinstance(self.stem_width, int):
            object.__setattr__(self, 'stem_width', (self.stem_width,) * (2 if self.patch_size is None else 1))
        for name, hint in field_types().items():
            check(name, getattr(self, name), hint)
        self._check_limits()
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
        self._check_output_stride()
        self._check_layout()
        self._check_heads()
        self._check_attention()

    def _check_limits(self) -> None:
        for name in field_types():
            if max(_numbers(getattr(self, name)), default=0) > _LARGEST_NUMBER:
                raise ValueError(
                    f'{name}={short(getattr(self, name))} is too large for any network; the limit is '
                    f'{_LARGEST_NUMBER:,}.'
                )
        if len(self.stem_width) + sum(map(abs, self.depths)) > _MOST_LAYERS:
            raise ValueError(
                f'stem_width={short(self.stem_width)} and depths={short(self.depths)} are more than {_MOST_LAYERS:,} '
                'layers; give fewer.'
            )

    def _check_patches(self) -> None:
        if self.patch_size is not None and (len(self.stem_width) > 1 or self.stem_norm_last):
            raise ValueError(
                f'With patch_size={self.patch_size} the stem is one convolution: stem_width={short(self.stem_width)} '
                'must have one width, and stem_norm_last must be False.'
            )

    def _check_output_stride(self) -> None:
        if self.output_stride is not None and (self.patch_size is not None or len(self.depths) > 4):
            raise ValueError(
                f'output_stride={self.output_stride} is for up to four stages that halve the resolution, not for '
                f'{len(self.depths)} stages with patch_size={self.patch_size}; leave out output_stride.'
            )

    def _check_layout(self) -> None:
        before = 'C'
        for stage, (types, widths) in enumerate(zip(self.stage_types, self.stage_widths, strict=True)):
            depth = self.depths[stage]
            if depth < 1 or len(types) != depth or len(widths) != depth or set(types) - set('CT'):
                raise ValueError(
                    f'Stage {stage} has depth {depth}, block types {short(types)} and widths '
                    f'{short(widths)}: '
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
        if self.attn_window is not None and not any('T' in types for types in self.stage_types):
            raise ValueError(
                f'attn_window={self.attn_window} is for Transformer blocks (T), of which block_types has none; leave '
                'out one of the two arguments.'
            )

    @property
    def stage_stride(self) -> int:
        """Stride of a stage's first block."""
        return 2 if self.patch_size is None else 1

    def phases(self, index: int) -> int:
        """How many times more positions along each side a stage has than without `output_stride`.

        The stage is computed once for each shift of its input (phase), with the same weights and position tables. So
        every `phases`-th position has the same features as without `output_stride`. An exception are late stages of
        MBConv with `conv_stride='depthwise'`: over a map of odd height or width, the convolution sees the last row
        or column again instead of zeros, and features differ, most of all at this edge.

        Args:
            index: Number of the stage from 0.
        """
        return 1 if self.output_stride is None else max(1, 2 ** (index + 2) // self.output_stride)

    @property
    def stage_types(self) -> list[PerBlock]:
        """Block type of every block, one tuple per stage."""
        return [_per_block(entry, depth) for entry, depth in zip(self.block_types, self.depths, strict=True)]

    @property
    def stage_widths(self) -> list[PerBlock]:
        """Output width of every block, one tuple per stage."""
        return [_per_block(entry, depth) for entry, depth in zip(self.embed_dim, self.depths, strict=True)]


def attention_grids(cfg: CoAtNetCfg, img_size: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """(height, width) of the positions that Transformer blocks see, by the number of the stage from 0.

    Args:
        cfg: The structure.
        img_size: (height, width) in pixels.
    """
    sizes = feature_sizes(img_size, len(cfg.depths), cfg.patch_size)
    return {s: sizes[s] for s, types in enumerate(cfg.stage_types) if 'T' in types}


def check_window(cfg: CoAtNetCfg, img_size: tuple[int, int]) -> None:
    """Refuse windows that are too large for every feature map.

    Args:
        cfg: The structure.
        img_size: (height, width) in pixels.

    Raises:
        ValueError: If no feature map is larger than a window.
    """
    if cfg.attn_window is None:
        return
    seen = list(attention_grids(cfg, img_size).values())
    if cfg.attn_window > max(map(max, seen)):
        raise ValueError(
            f'attn_window={cfg.attn_window} has no effect at img_size={img_size}, where Transformer blocks see at most '
            f'{seen[0][0]}x{seen[0][1]} positions; choose a smaller window or a larger image.'
        )


@functools.cache
def field_types() -> dict[str, Any]:
    """The type hint of every field of `CoAtNetCfg`, by name."""
    return get_type_hints(CoAtNetCfg, include_extras=True)


def _as_tuple(value: Any, depth: int = 2) -> Any:
    """Convert lists to tuples, down to a depth, because a file may nest its lists deeper than Python's stack."""
    if depth and isinstance(value, (list, tuple)):
        return tuple(_as_tuple(entry, depth - 1) for entry in value)
    return value


def _numbers(value: Any) -> Iterator[float]:
    """The numbers in a value that may be a tuple of tuples."""
    if isinstance(value, tuple):
        for entry in value:
            yield from _numbers(entry)
    elif isinstance(value, (int, float)):
        yield value


def _per_block(entry: Any, depth: int) -> PerBlock:
    if isinstance(entry, tuple) or (isinstance(entry, str) and len(entry) > 1):
        return tuple(entry)
    return (entry,) * depth
