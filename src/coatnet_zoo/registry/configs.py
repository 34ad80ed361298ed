"""The structure of one CoAtNet as a record, the checks that a structure has to pass, and the sizes of its feature maps.

docs/implementations.md says what each implementation does differently, and how `paper` reads the paper.
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

from .checks import Count, Epsilon, Patch, Ratio, check, short

PerBlock = tuple[Any, ...]
Activation = Literal['gelu', 'silu', 'relu']
STRUCTURE_FIELDS = ('stem_width', 'embed_dim', 'depths', 'block_types')
_MOST_LAYERS = 500  # convolutions of the stem, and blocks: far above any network


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
    depths: tuple[Count, ...] = (2, 3, 5, 2)
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
    conv_expand_ratio: Ratio = 4.0
    conv_expand_base: Literal['in', 'out'] = 'out'  # which width the expansion multiplies
    conv_stride: Literal['expand', 'depthwise', 'pool'] = 'expand'  # which layer of the branch strides
    conv_out_bias: bool = True  # last projection and shortcut
    conv_out_norm: bool = False  # batch norm after the last projection
    se_ratio: Ratio = 0.25
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
    mlp_ratio: Ratio = 4.0
    mlp_base: Literal['in', 'out'] = 'out'  # which width the ratio multiplies
    mlp_bias: bool = True
    init_values: float | None = None  # layer scale

    # Both
    pool_type: Literal['max', 'max2', 'avg2'] = 'max2'
    shortcut_proj_always: bool = True  # project the shortcut even where the width stays

    def __post_init__(self) -> None:
        for name in STRUCTURE_FIELDS:
            object.__setattr__(self, name, _as_tuple(getattr(self, name)))
        if isinstance(self.stem_width, int):  # as in timm
            object.__setattr__(self, 'stem_width', (self.stem_width,) * (2 if self.patch_size is None else 1))
        for name, hint in field_types().items():
            check(name, getattr(self, name), hint)
        self._check_stages()
        self._check_layout()
        self._check_heads()
        self._check_details()

    def _check_stages(self) -> None:
        if not self.stem_width:
            raise ValueError('stem_width must have at least one width.')
        if not len(self.embed_dim) == len(self.depths) == len(self.block_types):
            raise ValueError(
                'embed_dim, depths and block_types must have one entry per stage, '
                f'got {len(self.embed_dim)}, {len(self.depths)} and {len(self.block_types)}.'
            )
        if len(self.stem_width) + sum(self.depths) > _MOST_LAYERS:
            raise ValueError(
                f'stem_width={short(self.stem_width)} and depths={short(self.depths)} are more than {_MOST_LAYERS:,} '
                'layers; give fewer.'
            )
        if self.patch_size is not None and (len(self.stem_width) > 1 or self.stem_norm_last):
            raise ValueError(
                f'With patch_size={self.patch_size} the stem is one convolution: stem_width={short(self.stem_width)} '
                'must have one width, and stem_norm_last must be False.'
            )
        if self.output_stride is not None and (self.patch_size is not None or len(self.depths) > 4):
            raise ValueError(
                f'output_stride={self.output_stride} is for up to four stages that halve the resolution, not for '
                f'{len(self.depths)} stages with patch_size={self.patch_size}; leave out output_stride.'
            )

    def _check_layout(self) -> None:
        before = ''
        for stage, (types, widths) in enumerate(zip(self.stage_types, self.stage_widths, strict=True)):
            depth = self.depths[stage]
            if len(types) != depth or len(widths) != depth or set(types) - set('CT'):
                raise ValueError(
                    f'Stage {stage} has depth {depth}, block types {short(types)} and widths {short(widths)}: give it '
                    "types from 'C' and 'T', and one value or one per block."
                )
            before += ''.join(types)
            if 'TC' in before:
                raise ValueError(
                    f'Stage {stage} has a convolutional block (C) after a Transformer block (T); give a layout '
                    'with C stages first, such as CCCC, CCCT, CCTT or CTTT.'
                )

    def _check_heads(self) -> None:
        if self.num_heads is not None:
            return
        before = self.stem_width[-1]
        for stage, (types, widths) in enumerate(zip(self.stage_types, self.stage_widths, strict=True)):
            for kind, width in zip(types, widths, strict=True):
                base, before = before if self.attn_base == 'in' else width, width
                if kind == 'T' and width % self.dim_head and not self.heads_round_down:
                    raise ValueError(
                        f'Stage {stage} has width {width}, not a multiple of the head dimension {self.dim_head}.'
                    )
                if kind == 'T' and base < self.dim_head:
                    raise ValueError(
                        f'Stage {stage} takes its heads from width {base}, which is too narrow for one head of '
                        f'dimension dim_head={self.dim_head}.'
                    )

    def _check_details(self) -> None:
        if self.head_hidden and not (self.final_norm and self.head_bias):
            raise ValueError(
                'head_hidden has a norm and a bias; final_norm=False or head_bias=False need head_hidden=False.'
            )
        if self.attn_type == 'linear' and (self.rel_attn != 'none' or self.attn_window is not None):
            raise ValueError(
                "attn_type='linear' has neither a relative bias nor windows; it needs rel_attn='none' and "
                f'attn_window=None, got rel_attn={self.rel_attn!r} and attn_window={self.attn_window!r}.'
            )

    @property
    def stage_stride(self) -> int:
        """Stride of a stage's first block."""
        return 2 if self.patch_size is None else 1

    @property
    def stage_types(self) -> list[PerBlock]:
        """Block type of every block, one tuple per stage."""
        return list(map(_per_block, self.block_types, self.depths))

    @property
    def stage_widths(self) -> list[PerBlock]:
        """Output width of every block, one tuple per stage."""
        return list(map(_per_block, self.embed_dim, self.depths))

    def attention_maps(self, img_size: tuple[int, int]) -> list[tuple[int, int]]:
        """(height, width) of the feature map of every stage with Transformer blocks, for an image size."""
        sizes = feature_sizes(img_size, len(self.depths), self.patch_size)
        return [size for size, types in zip(sizes, self.stage_types, strict=True) if 'T' in types]

    def phases(self, index: int) -> int:
        """How many times more positions along each side a stage has than without `output_stride`.

        The stage is computed once for each shift of its input (phase), with the same weights and position tables. So
        every `phases`-th position has the same features as without `output_stride`, except near the last row and
        column of maps of odd height or width, in late stages of MBConv with `conv_stride='depthwise'`.

        Args:
            index: Number of the stage from 0.
        """
        return 1 if self.output_stride is None else max(1, 2 ** (index + 2) // self.output_stride)


def feature_sizes(img_size: tuple[int, int], num_stages: int, patch_size: int | None = None) -> list[tuple[int, int]]:
    """(height, width) after every stage for an image size, rounded up.

    Args:
        img_size: (height, width) in pixels.
        num_stages: Number of stages.
        patch_size: Stride of a stem that cuts the image into patches; the stages then keep the resolution. None: the
            stem and every stage halve the resolution.
    """
    strides = [2 ** (stage + 2) if patch_size is None else patch_size for stage in range(num_stages)]
    return [(-(-img_size[0] // stride), -(-img_size[1] // stride)) for stride in strides]


def num_offsets(size: tuple[int, int]) -> int:
    """The number of relative offsets of a (height, width) grid, which is the length of the position table."""
    return (2 * size[0] - 1) * (2 * size[1] - 1)


def check_window(cfg: CoAtNetCfg, img_size: tuple[int, int]) -> None:
    """Refuse windows that are too large to have an effect at an image size of (height, width) pixels.

    Raises:
        ValueError: If every feature map that Transformer blocks see is smaller than a window.
    """
    if cfg.attn_window is None:
        return
    seen = cfg.attention_maps(img_size) or [(0, 0)]
    if cfg.attn_window > max(seen[0]):
        raise ValueError(
            f'attn_window={cfg.attn_window} has no effect at img_size={img_size}, where Transformer blocks see at most '
            f'{seen[0][0]}x{seen[0][1]} positions; choose a smaller window or a larger image.'
        )


@functools.cache
def field_types() -> dict[str, Any]:
    """The type hint of every field of `CoAtNetCfg`, by name."""
    return get_type_hints(CoAtNetCfg, include_extras=True)


def _as_tuple(value: Any) -> Any:
    """Convert a list of lists to a tuple of tuples, because JSON and command lines give lists."""
    if not isinstance(value, (list, tuple)):
        return value
    return tuple(tuple(entry) if isinstance(entry, list) else entry for entry in value)


def _per_block(entry: Any, depth: int) -> PerBlock:
    if isinstance(entry, tuple) or (isinstance(entry, str) and len(entry) > 1):
        return tuple(entry)
    return (entry,) * depth
