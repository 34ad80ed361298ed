"""Checkpoints of the CoAtNet of keras_cv_attention_models: reading their structure, and where each tensor goes.

That code is MIT-licensed; this module uses only its tensor names, shapes, layouts and the settings of its layers.
"""

import math
from collections.abc import Collection

import torch

from ...errors import CheckpointError
from ...registry import feature_sizes, num_offsets
from ..checkpoint import Checkpoint
from ..codes import Target
from ..structure import Structure, count_numbered, shape_of
from .keras_h5 import read_h5 as read
from .keras_layers import Stack, check_layers, input_size

__all__ = ['infer_structure', 'read', 'recognises', 'tensor_map']

_IMPL = 'keras_cv'

_CONV = 'h w i o -> o i h w'
_DEPTHWISE = 'h w c m -> c m h w'
_POINTWISE = '1 1 i o -> o i'
_QKV = '1 1 i (three h d) -> (h three d) i'
_DENSE = 'i o -> o i'
_TABLE = 'h n -> n h'
_VECTOR = 'c -> c'
_LAYER_NORM = {'gamma': 'weight', 'beta': 'bias'}
_BATCH_NORM = {**_LAYER_NORM, 'moving_mean': 'running_mean', 'moving_variance': 'running_var'}
# The tensors of a block in that code, with their names and layouts in this package.
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
_STEM = {
    'stem_1_conv/kernel': ('stem.conv1.weight', _CONV),
    **{f'stem_1_bn/{k}': (f'stem.norm1.{v}', _VECTOR) for k, v in _BATCH_NORM.items()},
    'stem_2_conv/kernel': ('stem.conv2.weight', _CONV),
}
_HEAD = {
    'predictions/kernel': ('head.fc.weight', _DENSE),
    'predictions/bias': ('head.fc.bias', _VECTOR),
}


def recognises(names: Collection[str]) -> bool:
    """Whether these names are those of the CoAtNet of keras_cv_attention_models."""
    return 'stem_1_conv/kernel' in names and any(name.startswith('stack_1_block_1_preact_') for name in names)


def infer_structure(checkpoint: Checkpoint) -> Structure:
    """Read the structure from the tensors, and from the layers if the file describes its layers.

    CoAtNet-6 and -7 have five stacks in that code, and the fourth stack has no stride. In this package the fourth stack
    is the end of the third stage.

    Raises:
        CheckpointError: If a tensor that tells the structure is missing or has an impossible shape, if a layer does
            what no CoAtNet of this package does, or if this package cannot build the network for its image size.
    """
    tensors = checkpoint.tensors

    def shape(key: str, ndim: int) -> torch.Size:
        return shape_of(tensors, key, ndim, _IMPL)

    stacks = count_numbered(tensors, 'stack_', '_', 1, _IMPL)
    if stacks not in (4, 5):
        raise CheckpointError(
            f'The {_IMPL} checkpoint has {stacks} stacks of blocks; CoAtNet has 4, or 5 in -6 and -7.'
        )
    depths, types, widths, ratios, heads, offsets, counts = [], [], [], set(), set(), [], []
    for stack in range(1, stacks + 1):
        depths.append(count_numbered(tensors, f'stack_{stack}_block_', '_', 1, _IMPL))
        types.append('C' if any(name.startswith(f'stack_{stack}_block_1_expand_') for name in tensors) else 'T')
        counts.append([])
        for block in range(1, depths[-1] + 1):
            prefix = f'stack_{stack}_block_{block}_'
            expand = shape(prefix + ('expand_conv' if types[-1] == 'C' else 'ffn_1_conv') + '/kernel', 4)
            ratios.add(expand[3] / expand[2])
            if types[-1] == 'T':
                table = shape(prefix + 'mhsa_pos_emb/positional_embedding', 2)
                heads.add(shape(prefix + 'mhsa_qkv_conv/kernel', 4)[3] / (3 * table[0]))
                counts[-1].append(table[0])
                offsets.append((stack - (stacks == 5 and stack > 3), table[1]))
        prefix = f'stack_{stack}_block_1_'
        widths.append(shape(prefix + ('MB_pw_conv' if types[-1] == 'C' else 'ffn_2_conv') + '/kernel', 4)[3])
    for what, values in (('one expansion', ratios), ('heads of one width', heads)):
        if len(values) > 1 or any(v % 1 for v in values):
            raise CheckpointError(f'The blocks of the {_IMPL} checkpoint do not have {what}, but {sorted(values)}.')
    dim_head = int(next(iter(heads), 32))
    kernel = shape('stem_1_conv/kernel', 4)
    classes = shape('predictions/kernel', 2)[1] if 'predictions/kernel' in tensors else 0
    img_size = _img_size(input_size(checkpoint.layers, kernel[2]), offsets)
    # Only Transformer blocks depend on the size.
    grids = feature_sizes(img_size or (1, 1), 4)
    rests = [(stacks, i) == (5, 3) for i in range(stacks)]
    described = [
        Stack(i + 1, types[i], depths[i], 1 if rests[i] else 2, grids[i - sum(rests[: i + 1])], tuple(counts[i]))
        for i in range(stacks)
    ]
    check_layers(checkpoint.layers, described, dim_head, tensors)
    if stacks == 5:
        if types[2] == types[3]:
            raise CheckpointError(f'The {_IMPL} checkpoint has 5 stacks, but the third and fourth are of one kind.')
        merged = depths.pop(3)
        types[2] = types[2] * depths[2] + types.pop(3) * merged
        widths[2] = (widths[2],) * depths[2] + (widths.pop(3),) * merged
        depths[2] += merged
    return Structure(
        stem_width=(kernel[3], shape('stem_2_conv/kernel', 4)[3]),
        embed_dim=tuple(widths),
        depths=tuple(depths),
        block_types=''.join(types) if stacks == 4 else tuple(types),
        num_heads=None,
        dim_head=dim_head,
        in_chans=kernel[2],
        num_classes=classes,
        img_size=img_size,
        expand_ratio=next(iter(ratios)),
    )


def _img_size(stated: tuple[int, int] | None, offsets: list[tuple[int, int]]) -> tuple[int, int] | None:
    """(height, width) of the images, from the file or else from the position tables.

    Args:
        stated: The size that the file states, or None.
        offsets: For every position table, the stage (from 1) and the number of offsets, (2h-1)(2w-1).
    """
    size = stated
    if size is None and offsets:
        stage, count = offsets[0]
        # The largest size with these tables. All sizes with these tables give the same network.
        side = (math.isqrt(count) + 1) // 2 * 2 ** (stage + 1)
        size = (side, side)
    for stage, count in offsets:
        height, width = grid = feature_sizes(size, 4)[stage - 1]
        if num_offsets(grid) != count:
            where = 'square' if stated is None else f'{size[0]}x{size[1]}'
            raise CheckpointError(
                f'The {_IMPL} checkpoint has a position table of {count} offsets in stage {stage}, which does not '
                f'belong to {where} images; only networks built for square images can be converted.'
            )
        if height != width and min(height, width) > 1:
            raise CheckpointError(
                f'The {_IMPL} checkpoint was built for {size[0]}x{size[1]} images. That code mixes up rows and columns '
                'in the position tables of images that are not square, so that no other network equals it; convert '
                'one that was built for square images, which then takes any size here.'
            )
    return size


def tensor_map(structure: Structure) -> dict[str, Target]:
    """Every tensor of that code for a structure, with where it goes."""
    targets = {theirs: Target(*target) for theirs, target in _STEM.items()}
    if structure.num_classes:
        targets |= {theirs: Target(*target) for theirs, target in _HEAD.items()}
    stack = number = 0
    for stage, (entry, depth) in enumerate(zip(structure.block_types, structure.depths, strict=True)):
        types = entry * depth if len(entry) == 1 else entry
        for block, kind in enumerate(types):
            # In that code all blocks of a stack are of one kind.
            starts = block == 0 or kind != types[block - 1]
            stack, number = (stack + 1, 1) if starts else (stack, number + 1)
            source, target = f'stack_{stack}_block_{number}_', f'stages.{stage}.blocks.{block}.'
            for theirs, (ours, layout) in (_MBCONV if kind == 'C' else _TRANSFORMER).items():
                if kind == 'T' and block == 0:
                    ours = ours.replace('norm1.', 'norm1.norm.')  # the pooling is norm1.down
                targets[source + theirs] = Target(target + ours, layout)
            if starts:
                targets[source + 'shortcut_conv/kernel'] = Target(target + 'shortcut.expand.weight', _CONV)
    return targets
