"""Checkpoints of the CoAtNet of keras_cv_attention_models: reading their structure, and where each tensor goes.

That code is MIT-licensed; only its tensor names, shapes and layouts and its layers' settings are used here.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch

from ..errors import CheckpointError
from ..tables import feature_sizes, num_offsets
from .checkpoint import Checkpoint
from .codes import Target
from .keras_h5 import read_h5 as read
from .structure import Structure, count_numbered, shape_of

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
# The tensors of a block there, with their names and layouts here.
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


def recognises(names: Collection[str]) -> bool:
    """Whether these names are those of the CoAtNet of keras_cv_attention_models."""
    return 'stem_1_conv/kernel' in names and any(name.startswith('stack_1_block_1_preact_') for name in names)


def infer_structure(checkpoint: Checkpoint) -> Structure:
    """Read the structure off the tensors, and off the layers where the file describes them.

    CoAtNet-6 and -7 have five stacks in that code, of which the fourth does not stride. Here the fourth stack is the
    end of the third stage.

    Raises:
        CheckpointError: If a tensor that tells the structure is missing or has an impossible shape, if a layer does
            what no CoAtNet of this package does, or if the network was built for a size that has no equal here.
    """
    tensors = checkpoint.tensors

    def shape(key: str, ndim: int) -> torch.Size:
        return shape_of(tensors, key, ndim, _IMPL)

    stacks = count_numbered(tensors, 'stack_', '_', 1, _IMPL)
    if stacks not in (4, 5):
        raise CheckpointError(
            f'The {_IMPL} checkpoint has {stacks} stacks of blocks; CoAtNet has 4, or 5 in -6 and -7.'
        )
    _check_layers(checkpoint.layers, stacks)
    depths, types, widths, ratios, heads, offsets = [], [], [], set(), set(), []
    for stack in range(1, stacks + 1):
        depths.append(count_numbered(tensors, f'stack_{stack}_block_', '_', 1, _IMPL))
        types.append('C' if any(name.startswith(f'stack_{stack}_block_1_expand_') for name in tensors) else 'T')
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
            raise CheckpointError(f'The blocks of the {_IMPL} checkpoint do not have {what}, but {sorted(values)}.')
    if stacks == 5:
        if types[2] == types[3]:
            raise CheckpointError(f'The {_IMPL} checkpoint has 5 stacks, but the third and fourth are of one kind.')
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
        img_size=_img_size(_input_size(checkpoint.layers, kernel[2]), offsets),
        expand_ratio=next(iter(ratios)),
    )


def _check_layers(layers: Mapping[str, Mapping[str, Any]], stacks: int) -> None:
    """Refuse strides and activations that are options of that code and that this package does not have."""
    for stack in range(1, stacks + 1 if layers else 1):
        prefix = f'stack_{stack}_block_1_'
        expected = 1 if (stacks, stack) == (5, 4) else 2
        pool, expand = layers.get(prefix + 'shortcut_pool'), layers.get(prefix + 'expand_conv')
        if (pool['strides'] if pool else [1, 1]) != [expected] * 2 or (expand and expand['strides'] != [1, 1]):
            raise CheckpointError(
                f'The {_IMPL} checkpoint has a stride in stack {stack} that keras_cv_attention_models does not use by '
                'default (strides or use_dw_strides were changed); only its default is supported.'
            )
    for name, layer in layers.items():
        activation = layer.get('activation') if layer['class_name'] == 'Activation' else 'gelu'
        if activation not in ('gelu', 'sigmoid'):
            raise CheckpointError(
                f'The {_IMPL} checkpoint has the activation {activation!r} in {name}; only gelu is supported.'
            )


def _input_size(layers: Mapping[str, Mapping[str, Any]], in_chans: int) -> tuple[int, int] | None:
    """(height, width) of the images that the network was built for, if the file says it."""
    for layer in layers.values():
        shape = (layer.get('batch_input_shape') or layer.get('batch_shape') or ())[1:]
        if layer['class_name'] == 'InputLayer' and len(shape) == 3 and None not in shape:
            return (shape[0], shape[1]) if shape[2] == in_chans else (shape[1], shape[2])
    return None


def _img_size(stated: tuple[int, int] | None, offsets: list[tuple[int, int]]) -> tuple[int, int] | None:
    """(height, width) of the images: what the file says, or else what the position tables say.

    Args:
        stated: What the file says.
        offsets: For every table, its stage (from 1) and the number of its offsets, (2h-1)(2w-1).
    """
    size = stated
    if size is None and offsets:
        stage, count = offsets[0]
        # The largest size with these tables; all sizes with them give the same network.
        side = (math.isqrt(count) + 1) // 2 * 2 ** (stage + 1)
        size = (side, side)
    for stage, count in offsets:
        height, width = grid = feature_sizes(size, 4)[stage - 1]
        if num_offsets(grid) != count:
            where = 'square' if stated is None else f'{size[0]}x{size[1]}'
            raise CheckpointError(
                f'The {_IMPL} checkpoint has a position table of {count} offsets in stage {stage}, which is none of '
                f'{where} images; only networks built for square images can be converted.'
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
    targets = {theirs: Target(*target) for theirs, target in _STEM_AND_HEAD.items()}
    stack = number = 0
    for stage, (entry, depth) in enumerate(zip(structure.block_types, structure.depths, strict=True)):
        types = entry * depth if len(entry) == 1 else entry
        for block, kind in enumerate(types):
            # The stacks of that code have blocks of one kind.
            starts = block == 0 or kind != types[block - 1]
            stack, number = (stack + 1, 1) if starts else (stack, number + 1)
            source, target = f'stack_{stack}_block_{number}_', f'stages.{stage}.blocks.{block}.'
            for theirs, (ours, layout) in (_MBCONV if kind == 'C' else _TRANSFORMER).items():
                if kind == 'T' and block == 0:
                    ours = ours.replace('norm1.', 'norm1.norm.')  # beside norm1.down
                targets[source + theirs] = Target(target + ours, layout)
            if starts:
                targets[source + 'shortcut_conv/kernel'] = Target(target + 'shortcut.expand.weight', _CONV)
    return targets
