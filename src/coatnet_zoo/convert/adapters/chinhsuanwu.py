"""Checkpoints of chinhsuanwu/coatnet-pytorch: reading the structure from the tensors, and where each tensor goes.

chinhsuanwu's code is MIT-licensed; this module uses only its tensor names and shapes.
"""

import math
from collections.abc import Collection, Mapping

import torch

from ...errors import CheckpointError
from ..checkpoint import Checkpoint
from ..codes import Target
from ..heads import plain_head
from ..structure import Structure, count_numbered, shape_of

_IMPL = 'chinhsuanwu'
_BATCH_NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
_LAYER_NORM = ('weight', 'bias')
# The modules of an MBConv block in that code and in this package, with the parameters of each module.
_MBCONV = {
    'conv.norm': ('pre_norm', _BATCH_NORM),
    'conv.fn.0': ('conv1_1x1', ('weight',)),
    'conv.fn.1': ('norm1', _BATCH_NORM),
    'conv.fn.3': ('conv2_kxk', ('weight',)),
    'conv.fn.4': ('norm2', _BATCH_NORM),
    'conv.fn.6.fc.0': ('se.fc1', ('weight',)),
    'conv.fn.6.fc.2': ('se.fc2', ('weight',)),
    'conv.fn.7': ('conv3_1x1', ('weight',)),
    'conv.fn.8': ('norm3', _BATCH_NORM),
}
_TRANSFORMER = {
    'attn.1.norm': ('norm1', _LAYER_NORM),
    'attn.1.fn.to_qkv': ('attn.qkv', ('weight',)),
    'attn.1.fn.to_out.0': ('attn.proj', ('weight', 'bias')),
    'ff.1.norm': ('norm2', _LAYER_NORM),
    'ff.1.fn.net.0': ('mlp.fc1', ('weight', 'bias')),
    'ff.1.fn.net.3': ('mlp.fc2', ('weight', 'bias')),
}
_TABLE = 'attn.1.fn.relative_bias_table'
_INDEX = 'attn.1.fn.relative_index'
_HEAD = 'fc'
_PARTS = ('s0', 's1', 's2', 's3', 's4', _HEAD)
_LAYOUTS = {
    'attn.qkv': '(three h d) c -> (h three d) c',
    'se.fc1': 'o i -> o i 1 1',
    'se.fc2': 'o i -> o i 1 1',
}


def recognises(names: Collection[str]) -> bool:
    """Whether these names are those of chinhsuanwu's code."""
    return 's0.0.0.weight' in names and any(name.startswith('s1.0.') for name in names)


def prepare(checkpoint: Checkpoint, head: bool) -> Checkpoint:
    """Bring the classifier to the names `fc.weight` and `fc.bias`, or leave it out; see `plain_head`."""
    width = shape_of(checkpoint.tensors, 's4.0.proj.weight', 4, _IMPL)[0]
    return plain_head(checkpoint, _HEAD, _PARTS, width, head)


def infer_structure(checkpoint: Checkpoint) -> Structure:
    """Read the structure from the tensors.

    Raises:
        CheckpointError: If a tensor that tells the structure is missing or has an impossible shape.
    """
    tensors = checkpoint.tensors
    depths = [count_numbered(tensors, f's{stage}.', '.', 0, _IMPL) for stage in range(5)]
    types, widths, heads, sizes = [], [], {}, {}
    for stage in range(1, 5):
        if not depths[stage]:
            raise CheckpointError(f'The {_IMPL} checkpoint has no blocks in its stage s{stage}.')
        is_conv = any(name.startswith(f's{stage}.0.conv.') for name in tensors)
        types.append('C' if is_conv else 'T')
        width_of = ('conv.fn.7.weight', 4) if is_conv else ('ff.1.norm.weight', 1)
        widths.append(shape_of(tensors, f's{stage}.0.{width_of[0]}', width_of[1], _IMPL)[0])
        for block in range(0 if is_conv else depths[stage]):
            prefix = f's{stage}.{block}.'
            num_heads = shape_of(tensors, prefix + _TABLE, 2, _IMPL)[1]
            qkv = shape_of(tensors, prefix + 'attn.1.fn.to_qkv.weight', 2, _IMPL)[0]
            heads[prefix] = (num_heads, qkv // (3 * num_heads))
            sizes[prefix] = tuple(side * 2 ** (stage + 1) for side in _grid(tensors, prefix))
    for what, values in (('heads of one kind', heads), ('one input size', sizes)):
        if len(set(values.values())) > 1:
            a, b = list(dict.fromkeys(values.values()))[:2]
            raise CheckpointError(f'The blocks of the {_IMPL} checkpoint do not have {what}: {a} and {b}.')
    num_heads, dim_head = next(iter(heads.values()), (8, 32))
    has_head = 'fc.weight' in tensors
    return Structure(
        stem_width=tuple(shape_of(tensors, f's0.{i}.0.weight', 4, _IMPL)[0] for i in range(depths[0])),
        embed_dim=tuple(widths),
        depths=tuple(depths[1:]),
        block_types=''.join(types),
        num_heads=num_heads,
        dim_head=dim_head,
        in_chans=shape_of(tensors, 's0.0.0.weight', 4, _IMPL)[1],
        num_classes=shape_of(tensors, 'fc.weight', 2, _IMPL)[0] if has_head else 0,
        img_size=next(iter(sizes.values()), None),
        head_bias='fc.bias' in tensors if has_head else None,
    )


def _grid(tensors: Mapping[str, torch.Tensor], prefix: str) -> tuple[int, int]:
    """(height, width) of the feature map that a block attends over, from its buffer of relative positions.

    For every pair of positions, the buffer holds the number of a row of the position table. The first row of the buffer
    counts down by one along the first row of the grid, and jumps at the end of that row. The jump shows the width even
    if the length of the table fits several grids. chinhsuanwu's code uses the buffer as the index into the table, so
    every entry of the buffer must be right for the grid.
    """
    index = tensors.get(prefix + _INDEX)
    if index is None or index.numel() == 0:
        raise CheckpointError(f'The {_IMPL} checkpoint lacks the buffer {prefix + _INDEX}, or it is empty.')
    n = math.isqrt(index.numel())
    first = index.flatten()[:n].tolist()
    width = next((j for j in range(1, n) if first[0] - first[j] != j), n)
    height = n // width
    table_rows = tensors[prefix + _TABLE].shape[0]
    if height * width * height * width != index.numel() or (2 * height - 1) * (2 * width - 1) != table_rows:
        raise CheckpointError(
            f'In the {_IMPL} checkpoint, {prefix + _INDEX} has {index.numel()} entries, which do not fit the '
            f'{table_rows} rows of {prefix + _TABLE}.'
        )
    if not torch.equal(index.flatten().to('cpu', torch.float64), _index(height, width).double()):
        raise CheckpointError(
            f'In the {_IMPL} checkpoint, {prefix + _INDEX} is not the buffer of a grid of {height}x{width} positions; '
            'it is damaged or of another code.'
        )
    return height, width


def _index(height: int, width: int) -> torch.Tensor:
    """The row of the table for every pair of positions of a grid, (height * width * height * width,)."""
    y = torch.arange(height).repeat_interleave(width)
    x = torch.arange(width).repeat(height)
    rows = (y[:, None] - y + height - 1) * (2 * width - 1) + (x[:, None] - x + width - 1)
    return rows.flatten()


def tensor_map(structure: Structure) -> dict[str, Target]:
    """Every tensor of chinhsuanwu's code for a structure, with where it goes."""
    targets = {'fc.weight': Target('head.fc.weight')} if structure.num_classes else {}
    if structure.head_bias:
        targets['fc.bias'] = Target('head.fc.bias')
    for i in range(len(structure.stem_width)):
        targets[f's0.{i}.0.weight'] = Target(f'stem.conv{i + 1}.weight')
        targets.update({f's0.{i}.1.{p}': Target(f'stem.norm{i + 1}.{p}') for p in _BATCH_NORM})
    for stage, (depth, kind) in enumerate(zip(structure.depths, structure.block_types, strict=True)):
        for block in range(depth):
            source, target = f's{stage + 1}.{block}.', f'stages.{stage}.blocks.{block}.'
            for theirs, (ours, params) in (_MBCONV if kind == 'C' else _TRANSFORMER).items():
                if kind == 'T' and block == 0 and ours == 'norm1':
                    ours = 'norm1.norm'  # the pooling is norm1.down
                for p in params:
                    default = _identity(structure, p) if theirs.endswith('to_out.0') else None
                    targets[f'{source}{theirs}.{p}'] = Target(f'{target}{ours}.{p}', _LAYOUTS.get(ours), default)
            if kind == 'T':
                targets[source + _TABLE] = Target(target + 'attn.rel_pos.relative_position_bias_table')
                targets[source + _INDEX] = Target(None)
            if block == 0:
                targets[source + 'proj.weight'] = Target(target + 'shortcut.expand.weight')
    return targets


def _identity(structure: Structure, param: str) -> torch.Tensor | None:
    """A parameter of the output projection that changes nothing.

    chinhsuanwu's code leaves the projection out if the block has one head that is as wide as the input of the block.
    """
    if structure.num_heads != 1:
        return None
    return torch.eye(structure.dim_head) if param == 'weight' else torch.zeros(structure.dim_head)
