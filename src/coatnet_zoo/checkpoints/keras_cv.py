"""Checkpoints of keras_cv_attention_models' CoAtNet: reading the structure off the tensors, and mapping them.

That code is MIT-licensed; only its tensor names, shapes and layouts are used here. Tensors come from `keras_h5`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from einops import EinopsError, rearrange

from ..errors import CheckpointError
from ..tables.grids import feature_sizes
from .keras_h5 import INPUT_SHAPE
from .structure import Structure, check_names, shape_of

IMPL = 'keras_cv'
CODE = 'keras_cv_attention_models'
# What its evaluation does with images.
INTERPOLATION = 'bicubic'
CROP_PCT = 0.95

_CONV = 'h w i o -> o i h w'
_DEPTHWISE = 'h w c m -> c m h w'
_POINTWISE = '1 1 i o -> o i'
_QKV = '1 1 i (three h d) -> (h three d) i'
_DENSE = 'i o -> o i'
_TABLE = 'h n -> n h'
_VECTOR = 'c -> c'
_LAYER_NORM = {'gamma': 'weight', 'beta': 'bias'}
_BATCH_NORM = {**_LAYER_NORM, 'moving_mean': 'running_mean', 'moving_variance': 'running_var'}
# A block's tensors there, with their names and layouts here.
_MBCONV = {
    'expand_conv/kernel': ('conv1_1x1.weight', _CONV),
    'MB_dw_conv/depthwise_kernel': ('conv2_kxk.weight', _DEPTHWISE),
    'se_1_conv/kernel': ('se.fc1.weight', _CONV),
    'se_1_conv/bias': ('se.fc1.bias', _VECTOR),
    'se_2_conv/kernel': ('se.fc2.weight', _CONV),
    'se_2_conv/bias': ('se.fc2.bias', _VECTOR),
    'MB_pw_conv/kernel': ('conv3_1x1.weight', _CONV),
    **{f'preact_bn/{k}': (f'pre_norm.{v}', _VECTOR) for k, v in _BATCH_NORM.items()},
    **{f'expand_bn/{k}': (f'norm1.{v}', _VECTOR) for k, v in _BATCH_NORM.items()},
    **{f'MB_dw_bn/{k}': (f'norm2.{v}', _VECTOR) for k, v in _BATCH_NORM.items()},
}
_TRANSFORMER = {
    'mhsa_qkv_conv/kernel': ('attn.qkv.weight', _QKV),
    'mhsa_pos_emb/positional_embedding': ('attn.rel_pos.relative_position_bias_table', _TABLE),
    'mhsa_output/kernel': ('attn.proj.weight', _DENSE),
    'ffn_1_conv/kernel': ('mlp.fc1.weight', _POINTWISE),
    'ffn_2_conv/kernel': ('mlp.fc2.weight', _POINTWISE),
    **{f'preact_ln/{k}': (f'norm1.{v}', _VECTOR) for k, v in _LAYER_NORM.items()},
    **{f'ffn_preact_ln/{k}': (f'norm2.{v}', _VECTOR) for k, v in _LAYER_NORM.items()},
}
_STEM_AND_HEAD = {
    'stem_1_conv/kernel': ('stem.conv1.weight', _CONV),
    **{f'stem_1_bn/{k}': (f'stem.norm1.{v}', _VECTOR) for k, v in _BATCH_NORM.items()},
    'stem_2_conv/kernel': ('stem.conv2.weight', _CONV),
    'predictions/kernel': ('head.fc.weight', _DENSE),
    'predictions/bias': ('head.fc.bias', _VECTOR),
}


def recognises(state_dict: Mapping[str, Any]) -> bool:
    """Whether these names are those of keras_cv_attention_models' CoAtNet."""
    return 'stem_1_conv/kernel' in state_dict and any(k.startswith('stack_1_block_1_preact_') for k in state_dict)


def infer_structure(state_dict: Mapping[str, torch.Tensor]) -> Structure:
    """Read the structure off the tensors.

    That code has five stacks in CoAtNet-6 and -7, of which the fourth does not stride; here it is the end of the third
    stage.

    Args:
        state_dict: Tensors as `keras_h5.read_h5` names them.

    Raises:
        CheckpointError: If a tensor that is needed for it is missing or has an impossible shape, or if the network was
            built for a size for which this package has no equal.
    """

    def shape(key: str, ndim: int) -> torch.Size:
        return shape_of(state_dict, key, ndim, IMPL)

    stacks = _count(state_dict, 'stack_')
    if stacks not in (4, 5):
        raise CheckpointError(f'The {IMPL} checkpoint has {stacks} stacks of blocks; CoAtNet has 4, or 5 in -6 and -7.')
    depths, types, widths, ratios, heads, offsets = [], [], [], set(), set(), []
    for stack in range(1, stacks + 1):
        depths.append(_count(state_dict, f'stack_{stack}_block_'))
        types.append('C' if any(k.startswith(f'stack_{stack}_block_1_expand_') for k in state_dict) else 'T')
        for block in range(1, depths[-1] + 1):
            prefix = f'stack_{stack}_block_{block}_'
            expand = shape(prefix + ('expand_conv' if types[-1] == 'C' else 'ffn_1_conv') + '/kernel', 4)
            ratios.add(expand[3] / expand[2])
            if types[-1] == 'T':
                table = shape(prefix + 'mhsa_pos_emb/positional_embedding', 2)
                heads.add(shape(prefix + 'mhsa_qkv_conv/kernel', 4)[3] / (3 * table[0]))
                offsets.append((stack - (stacks == 5 and stack > 3), table[1]))
        prefix = f'stack_{stack}_block_1_'
        widths.append(shape(prefix + ('MB_pw_conv' if types[-1] == 'C' else 'ffn_2_conv') + '/kernel', 4)[3])
    for what, values in (('one expansion', ratios), ('heads of one width', heads)):
        if len(values) > 1 or any(v % 1 for v in values):
            raise CheckpointError(f'The blocks of the {IMPL} checkpoint do not have {what}, but {sorted(values)}.')
    if stacks == 5:
        if types[2] == types[3]:
            raise CheckpointError(f'The {IMPL} checkpoint has 5 stacks, but the third and fourth are of one kind.')
        merged = depths.pop(3)
        types[2] = types[2] * depths[2] + types.pop(3) * merged
        widths[2] = (widths[2],) * depths[2] + (widths.pop(3),) * merged
        depths[2] += merged
    kernel = shape('stem_1_conv/kernel', 4)
    return Structure(
        stem_width=(kernel[3], shape('stem_2_conv/kernel', 4)[3]),
        embed_dim=tuple(widths),
        depths=tuple(depths),
        block_types=''.join(types) if stacks == 4 else tuple(types),
        num_heads=None,
        dim_head=int(next(iter(heads), 32)),
        in_chans=kernel[2],
        num_classes=shape('predictions/kernel', 2)[1],
        img_size=_img_size(state_dict.get(INPUT_SHAPE), kernel[2], offsets),
        expand_ratio=next(iter(ratios)),
    )


def _count(state_dict: Mapping[str, Any], prefix: str) -> int:
    indices = {int(m[1]) for k in state_dict if (m := re.match(rf'{prefix}(\d+)_', k))}
    return max(indices, default=0)


def _img_size(
    input_shape: torch.Tensor | None, in_chans: int, offsets: list[tuple[int, int]]
) -> tuple[int, int] | None:
    """(height, width) of the images, from what the file says or else from the position tables.

    Args:
        input_shape: (height, width, channels) or (channels, height, width), if the file says it.
        in_chans: Channels.
        offsets: For every table, its stage (from 1) and the number of its offsets, (2h-1)(2w-1).
    """
    size = None
    if input_shape is not None and input_shape.numel() == 3:
        shape = input_shape.tolist()
        size = (shape[0], shape[1]) if shape[2] == in_chans else (shape[1], shape[2])
    elif offsets:
        stage, num_offsets = offsets[0]
        # The largest size with these tables; all of them give the same network.
        side = (math.isqrt(num_offsets) + 1) // 2 * 2 ** (stage + 1)
        size = (side, side)
    for stage, num_offsets in offsets:
        height, width = feature_sizes(size, 4)[stage - 1]
        if (2 * height - 1) * (2 * width - 1) != num_offsets:
            where = f'{size[0]}x{size[1]}' if input_shape is not None else 'square'
            raise CheckpointError(
                f'The {IMPL} checkpoint has a position table of {num_offsets} offsets in stage {stage}, which is none '
                f'of {where} images; only networks built for square images can be converted.'
            )
        if height != width and min(height, width) > 1:
            raise CheckpointError(
                f'The {IMPL} checkpoint was built for {size[0]}x{size[1]} images. That code mixes up rows and columns '
                'in the position tables of images that are not square, so that no other network equals it; convert '
                'one that was built for square images, which then takes any size here.'
            )
    return size


def _tensor_map(structure: Structure) -> dict[str, tuple[str, str]]:
    """Every tensor of that code for a structure, with its name and layout here."""
    tensors = dict(_STEM_AND_HEAD)
    stack = number = 0
    for stage, (entry, depth) in enumerate(zip(structure.block_types, structure.depths, strict=True)):
        types = entry * depth if len(entry) == 1 else entry
        for block, kind in enumerate(types):
            # Their stacks have blocks of one kind.
            starts = block == 0 or kind != types[block - 1]
            stack, number = (stack + 1, 1) if starts else (stack, number + 1)
            source, target = f'stack_{stack}_block_{number}_', f'stages.{stage}.blocks.{block}.'
            for theirs, (ours, layout) in (_MBCONV if kind == 'C' else _TRANSFORMER).items():
                if kind == 'T' and block == 0:
                    ours = ours.replace('norm1.', 'norm1.norm.')  # beside norm1.down
                tensors[source + theirs] = (target + ours, layout)
            if starts:
                tensors[source + 'shortcut_conv/kernel'] = (target + 'shortcut.expand.weight', _CONV)
    return tensors


def key_map(structure: Structure) -> dict[str, str]:
    """Every tensor name of that code for a structure, with its name here."""
    return {theirs: ours for theirs, (ours, _) in _tensor_map(structure).items()}


def to_canonical(state_dict: Mapping[str, torch.Tensor], structure: Structure) -> dict[str, torch.Tensor]:
    """Map a checkpoint of that code to this package's names and layouts.

    Args:
        state_dict: Tensors as `keras_h5.read_h5` names them.
        structure: What `infer_structure` read from it.

    Returns:
        Tensors by their name here, contiguous.

    Raises:
        CheckpointError: If a tensor is missing, does not belong to such a network, or has an impossible shape.
    """
    tensors = _tensor_map(structure)
    check_names(set(state_dict) - {INPUT_SHAPE}, tensors, IMPL)
    out: dict[str, torch.Tensor] = {}
    for theirs, (ours, layout) in tensors.items():
        axes = dict(three=3, d=structure.dim_head) if layout == _QKV else {}
        try:
            out[ours] = rearrange(state_dict[theirs], layout, **axes).contiguous()
        except EinopsError as e:
            raise CheckpointError(
                f'The tensor {theirs} of the {IMPL} checkpoint has shape {tuple(state_dict[theirs].shape)}, which is '
                f'not of the form {layout.partition(" ->")[0]!r}.'
            ) from e
        if ours.endswith('running_var'):
            out[ours.replace('running_var', 'num_batches_tracked')] = torch.tensor(0)
    return out
