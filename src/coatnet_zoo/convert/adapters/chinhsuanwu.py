"""Checkpoints of chinhsuanwu/coatnet-pytorch: reading the structure from the tensors, and where each tensor goes.

chinhsuanwu's code is MIT-licensed; this module uses only its tensor names and shapes.
"""

import functools
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from timm.layers import gen_relative_position_index

from ...errors import CheckpointError, shown
from ...registry import num_offsets
from ..adapter import Checkpoint, Structure, Target, count_numbered, shape_of
from ..heads import plain_head

_IMPL = 'chinhsuanwu'
_BATCH_NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
_LINEAR = _LAYER_NORM = ('weight', 'bias')
# The modules of a block in that code and in this package, with the parameters of each module.
_BLOCKS = {
    'C': {
        'conv.norm': ('pre_norm', _BATCH_NORM),
        'conv.fn.0': ('conv1_1x1', ('weight',)),
        'conv.fn.1': ('norm1', _BATCH_NORM),
        'conv.fn.3': ('conv2_kxk', ('weight',)),
        'conv.fn.4': ('norm2', _BATCH_NORM),
        'conv.fn.6.fc.0': ('se.fc1', ('weight',)),
        'conv.fn.6.fc.2': ('se.fc2', ('weight',)),
        'conv.fn.7': ('conv3_1x1', ('weight',)),
        'conv.fn.8': ('norm3', _BATCH_NORM),
    },
    'T': {
        'attn.1.norm': ('norm1', _LAYER_NORM),
        'attn.1.fn.to_qkv': ('attn.qkv', ('weight',)),
        'attn.1.fn.to_out.0': ('attn.proj', _LINEAR),
        'ff.1.norm': ('norm2', _LAYER_NORM),
        'ff.1.fn.net.0': ('mlp.fc1', _LINEAR),
        'ff.1.fn.net.3': ('mlp.fc2', _LINEAR),
    },
}
_TABLE = 'attn.1.fn.relative_bias_table'
_INDEX = 'attn.1.fn.relative_index'
_PARTS = ('s0', 's1', 's2', 's3', 's4', 'fc')
_LAYOUTS = {
    'attn.qkv': '(three h d) c -> (h three d) c',
    'se.fc1': 'o i -> o i 1 1',
    'se.fc2': 'o i -> o i 1 1',
}


def recognises(names: Collection[str]) -> bool:
    """Whether these names are those of chinhsuanwu's code."""
    return 's0.0.0.weight' in names and any(name.startswith('s1.0.') for name in names)


def oddity(layers: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The first layer that computes something else than a layer of that code, in words.

    Args:
        layers: The class (`kind`) and the attributes of every layer, by name.
    """
    for name, layer in layers.items():
        module, _, kind = layer['kind'].rpartition('.')
        if kind.startswith(('AvgPool', 'LPPool')):
            return f'{shown(name)} is {shown(kind)}, not MaxPool2d'
        if module == 'torch.nn.modules.activation' and kind not in ('GELU', 'Sigmoid', 'Softmax'):
            return f'{shown(name)} is {shown(kind)}, not GELU'
        if kind in ('BatchNorm2d', 'LayerNorm') and layer.get('eps') != 1e-5:
            return f'{shown(name)} has eps={layer.get("eps")}, not 1e-05'
        if kind == 'Conv2d' and layer.get('groups') != 1 and layer.get('stride') != (1, 1):
            return f'{shown(name)} strides, and not the 1x1 convolution before it'
        if kind == 'GELU' and layer.get('approximate', 'none') != 'none':
            return f'{shown(name)} is an approximation of GELU'
    return None


def prepare(checkpoint: Checkpoint, head: bool) -> Checkpoint:
    """Bring the classifier to the names `fc.weight` and `fc.bias`, or leave it out; see `plain_head`.

    Raises:
        CheckpointError: If the layers, where the file has them, are not those of that code.
    """
    if odd := oddity(checkpoint.layers):
        raise CheckpointError(f'The {_IMPL} checkpoint computes something else: {odd}.')
    width = shape_of(checkpoint.tensors, 's4.0.proj.weight', 4, _IMPL)[0]
    return plain_head(checkpoint, 'fc', _PARTS, width, head)


def infer_structure(checkpoint: Checkpoint) -> Structure:
    """Read the structure from the tensors.

    Raises:
        CheckpointError: If a tensor that tells the structure is missing or has an impossible shape.
    """
    tensors = checkpoint.tensors
    shape = functools.partial(shape_of, tensors, impl=_IMPL)
    depths = [count_numbered(tensors, f's{stage}.', '.') for stage in range(5)]
    types, widths, heads, sizes = '', [], set(), set()
    for stage in range(1, 5):
        if not depths[stage]:
            raise CheckpointError(f'The {_IMPL} checkpoint has no blocks in its stage s{stage}.')
        if any(name.startswith(f's{stage}.0.conv.') for name in tensors):
            types += 'C'
            widths.append(shape(f's{stage}.0.conv.fn.7.weight', 4)[0])
            continue
        types += 'T'
        widths.append(shape(f's{stage}.0.ff.1.norm.weight', 1)[0])
        for block in range(depths[stage]):
            prefix = f's{stage}.{block}.'
            num_heads = shape(prefix + _TABLE, 2)[1]
            heads.add((num_heads, shape(prefix + 'attn.1.fn.to_qkv.weight', 2)[0] // (3 * num_heads)))
            sizes.add(tuple(side * 2 ** (stage + 1) for side in _grid(tensors, prefix)))
    for what, values in (('heads of one kind', heads), ('one input size', sizes)):
        if len(values) > 1:
            raise CheckpointError(f'The blocks of the {_IMPL} checkpoint do not have {what}, but {sorted(values)[:4]}.')
    num_heads, dim_head = next(iter(heads), (8, 32))
    has_head = 'fc.weight' in tensors
    return Structure(
        stem_width=tuple(shape(f's0.{i}.0.weight', 4)[0] for i in range(depths[0])),
        embed_dim=tuple(widths),
        depths=tuple(depths[1:]),
        block_types=types,
        num_heads=num_heads,
        dim_head=dim_head,
        in_chans=shape('s0.0.0.weight', 4)[1],
        num_classes=shape('fc.weight', 2)[0] if has_head else 0,
        img_size=next(iter(sizes), None),
        head_bias='fc.bias' in tensors if has_head else None,
    )


def _grid(tensors: Mapping[str, torch.Tensor], prefix: str) -> tuple[int, int]:
    """(height, width) of the feature map that a block attends over: the grid whose relative positions the buffer has.

    The length of the table may fit several grids. chinhsuanwu's code uses the buffer as the index into the table, so
    every entry of the buffer must be right for the grid.
    """
    index = tensors.get(prefix + _INDEX, torch.empty(0)).flatten().cpu().double()
    positions, rows = math.isqrt(index.numel()), len(tensors[prefix + _TABLE])
    for height in range(1, positions + 1):
        grid = (height, positions // height)
        if math.prod(grid) == positions and num_offsets(grid) == rows and torch.equal(index, _index(grid)):
            return grid
    raise CheckpointError(
        f'In the {_IMPL} checkpoint, {prefix + _INDEX} is missing, damaged or of another code: it is not the buffer of '
        f'relative positions of a grid that fits the {rows} rows of {prefix + _TABLE}.'
    )


@functools.cache
def _index(grid: tuple[int, int]) -> torch.Tensor:
    return gen_relative_position_index(grid).flatten().double()


def tensor_map(structure: Structure) -> dict[str, Target]:
    """Every tensor of chinhsuanwu's code for a structure, with where it goes."""
    targets = {'fc.weight': Target('head.fc.weight')} if structure.num_classes else {}
    if structure.head_bias:
        targets['fc.bias'] = Target('head.fc.bias')
    for i in range(len(structure.stem_width)):
        targets[f's0.{i}.0.weight'] = Target(f'stem.conv{i + 1}.weight')
        targets |= {f's0.{i}.1.{p}': Target(f'stem.norm{i + 1}.{p}') for p in _BATCH_NORM}
    # That code leaves the output projection out if the block has one head that is as wide as the input of the block.
    identity = {'weight': torch.eye(structure.dim_head), 'bias': torch.zeros(structure.dim_head)}
    for stage, (depth, kind) in enumerate(zip(structure.depths, structure.block_types, strict=True)):
        for block in range(depth):
            source, target = f's{stage + 1}.{block}.', f'stages.{stage}.blocks.{block}.'
            for theirs, (ours, params) in _BLOCKS[kind].items():
                if kind == 'T' and block == 0 and ours == 'norm1':
                    ours = 'norm1.norm'  # the pooling is norm1.down
                for p in params:
                    default = identity[p] if ours == 'attn.proj' and structure.num_heads == 1 else None
                    targets[f'{source}{theirs}.{p}'] = Target(f'{target}{ours}.{p}', _LAYOUTS.get(ours), default)
            if kind == 'T':
                targets[source + _TABLE] = Target(target + 'attn.rel_pos.relative_position_bias_table')
                targets[source + _INDEX] = Target(None)
            if block == 0:
                targets[source + 'proj.weight'] = Target(target + 'shortcut.expand.weight')
    return targets
