"""Checkpoints of chinhsuanwu/coatnet-pytorch: reading the structure from the tensors, and where each tensor goes.

chinhsuanwu's code is MIT-licensed; this module uses only its tensor names and shapes.
"""

import functools
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
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
# What forks put in place of a part of a block, by the name of the part.
_OTHER_PARTS = dict(conv='another MBConv', attn='another attention', ff='another feed-forward network')
_OTHER_PARTS |= dict(proj='a projection in the shortcut of every block')
_IN_BLOCK = {f'{layer}.{p}' for layers in _BLOCKS.values() for layer, (_, params) in layers.items() for p in params}
_IN_BLOCK |= {_TABLE, _INDEX}
_STRIDES = re.compile(r'(?:^|\.)s?(?:0\.0\.0|[1-4]\.0\.conv\.fn\.0)$')  # the layers of stride 2
_WITHIN = re.compile(r'(?:^|\.)s?[0-4]\.\d+\.')  # the layers within the stem and the blocks
_SETTINGS: dict[str, dict[str, Any]] = {
    'Conv2d': dict(padding_mode='zeros', dilation=(1, 1)),
    'MaxPool2d': dict(kernel_size=3, stride=2, padding=1, ceil_mode=False),
    'GELU': dict(approximate='none'),
    **{norm: dict(eps=1e-5) for norm in ('BatchNorm2d', 'SyncBatchNorm', 'LayerNorm')},
}


def recognises(names: Collection[str]) -> bool:
    """Whether these names are those of chinhsuanwu's code, also where a `Sequential` numbers the stages."""
    firsts = {'s0.0.0.weight': ('s1.0.',), '0.0.0.weight': ('1.0.conv.norm.', '1.0.attn.1.norm.')}
    return any(stem in names and any(name.startswith(block) for name in names) for stem, block in firsts.items())


def oddity(layers: Mapping[str, Mapping[str, Any]], head: bool = True) -> str | None:
    """Describe the first layer that computes something other than a layer of that code.

    Args:
        layers: The class (`kind`) and the attributes of every layer, by name. TorchScript has no settings there.
        head: Also look at what stands behind the stages.
    """
    for name, layer in layers.items():
        group, _, kind = layer['kind'].removeprefix('torch.nn.modules.').rpartition('.')
        within, expected = _WITHIN.search(name), ()
        if not (within or head):
            continue
        if group == 'pooling':
            expected = ('MaxPool2d',) if re.search(r'\d\.pool\d?$', name) else ('AvgPool2d', 'AdaptiveAvgPool2d')
        elif group == 'activation' and kind != 'MultiheadAttention':
            if not within:
                return f'{shown(name)} is {shown(kind)}, which head=False (--no-head) leaves out'
            expected = ('Sigmoid',) if name.endswith('.fc.3') else ('Softmax',) if 'attend' in name else ('GELU',)
        elif group in ('batchnorm', 'normalization') and within:
            expected = ('LayerNorm',) if re.search(r'(?:attn|ff)\.1\.norm$', name) else ('BatchNorm2d', 'SyncBatchNorm')
        if expected and kind not in expected:
            return f'{shown(name)} is {shown(kind)}, not {expected[0]}'
        stride = dict(stride=(2, 2) if _STRIDES.search(name) else (1, 1)) if kind == 'Conv2d' else {}
        for setting, value in {**_SETTINGS.get(kind, {}), **stride}.items() if within else ():
            if layer.get(setting, value) not in (value, (value, value)):
                return f'{shown(name)} has {setting}={shown(str(layer[setting]))}, not {value}'
    return None


def prepare(checkpoint: Checkpoint, head: bool) -> Checkpoint:
    """Bring the tensors to the names and the order of that code.

    The stages may be in a `Sequential`, the tables in another order. For the classifier, see `plain_head`.

    Raises:
        CheckpointError: If the layers, where the file has them, or the tensors are not those of that code.
    """
    if odd := oddity(checkpoint.layers, head):
        raise CheckpointError(f'The {_IMPL} checkpoint computes something else: {odd}.')
    tensors = {re.sub(r'^(?=[0-4]\.)', 's', name): tensor for name, tensor in checkpoint.tensors.items()}
    if other := _other_part(tensors):
        raise CheckpointError(f'The {_IMPL} checkpoint is of a fork with {other}, which this package does not support.')
    for name in [name for name in tensors if name.endswith(_TABLE)]:
        grid, order = _grid(tensors, block := name.removesuffix(_TABLE))
        tensors |= {name: tensors[name][order], block + _INDEX: _index(grid)}
    width = shape_of(tensors, 's4.0.proj.weight', 4, _IMPL)[0]
    return plain_head(replace(checkpoint, tensors=tensors), 'fc', _PARTS, width, head)


def _other_part(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Describe the first part that only forks have."""
    stages = sorted({m[0] for name in tensors if (m := re.match(r's[0-9](?=\.)', name))} - {'s0'})
    if stages != list(_PARTS[1:5]):
        return f'{len(stages)} stages ({", ".join(stages)}) instead of four'
    for name, tensor in tensors.items():
        parts = name.split('.', 2)
        part = parts[2].partition('.')[0] if len(parts) > 2 and parts[0] in stages else None
        if tensor.ndim == 5 or (tensor.ndim == 3 and name == 's0.0.0.weight'):
            return f'{tensor.ndim - 2}-D convolutions, as {shown(name)} is'
        if part in _OTHER_PARTS and parts[2] not in _IN_BLOCK and not (part == 'proj' and parts[1] == '0'):
            return f'{_OTHER_PARTS[part]} ({shown(name)})'
    return None


def infer_structure(checkpoint: Checkpoint) -> Structure:
    """Read the structure from the tensors; a `CheckpointError` if one is missing or has an impossible shape."""
    tensors = checkpoint.tensors
    shape = functools.partial(shape_of, tensors, impl=_IMPL)
    depths = [count_numbered(tensors, f's{stage}.', '.') for stage in range(5)]
    convs, attns = ({name.partition(part)[0] for name in tensors} for part in ('conv.', 'attn.'))
    types, widths, heads, sizes = [], [], set(), set()
    for stage in range(1, 5):
        widths.append(shape(f's{stage}.0.proj.weight', 4)[0])
        blocks = [f's{stage}.{block}.' for block in range(depths[stage])]
        # A block without either is as the first, and its tensors are missing.
        kinds = ''.join('C' if b in convs or (b not in attns and blocks[0] in convs) else 'T' for b in blocks)
        types.append(kinds if len(set(kinds)) > 1 else kinds[0])
        for block in (block for block, kind in zip(blocks, kinds, strict=True) if kind == 'T'):
            num_heads = shape(block + _TABLE, 2)[1]
            heads.add((num_heads, shape(block + 'attn.1.fn.to_qkv.weight', 2)[0] // (3 * num_heads)))
            sizes.add(tuple(side * 2 ** (stage + 1) for side in _grid(tensors, block)[0]))
    for what, values in (('heads of one kind', heads), ('one input size', sizes)):
        if len(values) > 1:
            raise CheckpointError(f'The blocks of the {_IMPL} checkpoint do not have {what}, but {sorted(values)[:4]}.')
    num_heads, dim_head = next(iter(heads), (8, 32))
    has_head = 'fc.weight' in tensors
    return Structure(
        stem_width=tuple(shape(f's0.{i}.0.weight', 4)[0] for i in range(depths[0])),
        embed_dim=tuple(widths),
        depths=tuple(depths[1:]),
        block_types=''.join(types) if max(map(len, types)) == 1 else tuple(types),
        num_heads=num_heads,
        dim_head=dim_head,
        in_chans=shape('s0.0.0.weight', 4)[1],
        num_classes=shape('fc.weight', 2)[0] if has_head else 0,
        img_size=next(iter(sizes), None),
        head_bias='fc.bias' in tensors if has_head else None,
    )


def _grid(tensors: Mapping[str, torch.Tensor], prefix: str) -> tuple[tuple[int, int], torch.Tensor]:
    """(height, width) of the feature map that a block attends over, and the row of the table for every offset.

    The length of the table may fit several grids. The buffer that indexes the table determines the grid: it has to be a
    function of the offset between two positions. Forks have another order, such as of `meshgrid(indexing='xy')`.
    """
    index = tensors.get(prefix + _INDEX, torch.empty(0)).flatten().cpu().double()
    positions, rows = math.isqrt(index.numel()), shape_of(tensors, prefix + _TABLE, 2, _IMPL)[0]
    for height in range(1, positions + 1):
        grid = (height, positions // height)
        if math.prod(grid) == positions and positions**2 == index.numel() and num_offsets(grid) == rows:
            order = index.new_zeros(rows).scatter(0, _index(grid), index).long().clamp(0, rows - 1)
            if torch.equal(order[_index(grid)].double(), index):
                return grid, order
    raise CheckpointError(
        f'In the {_IMPL} checkpoint, {prefix + _INDEX} is missing, damaged or different: it is not a function of '
        f'the offsets in a grid that fits the {rows} rows of {prefix + _TABLE}.'
    )


@functools.cache
def _index(grid: tuple[int, int]) -> torch.Tensor:
    return gen_relative_position_index(grid).flatten()


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
    for stage, (depth, types) in enumerate(zip(structure.depths, structure.block_types, strict=True)):
        for block, kind in enumerate(types if len(types) > 1 else types * depth):
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
