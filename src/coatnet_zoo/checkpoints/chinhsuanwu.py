"""Checkpoints of chinhsuanwu/coatnet-pytorch: reading the structure off the tensors, and mapping names and layouts.

That code is MIT-licensed; only its tensor names and shapes are used here.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from einops import rearrange

from ..errors import CheckpointError
from .structure import Structure, check_names, shape_of

IMPL = 'chinhsuanwu'
CODE = 'chinhsuanwu/coatnet-pytorch'
# That code has no preprocessing; these are the usual.
INTERPOLATION = 'bicubic'
CROP_PCT = 0.875

_BATCH_NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
_LAYER_NORM = ('weight', 'bias')
# An MBConv block's modules there and here, with the parameters that each has.
_CONV = {
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


def recognises(state_dict: Mapping[str, Any]) -> bool:
    """Whether these names are those of chinhsuanwu's code."""
    return 's0.0.0.weight' in state_dict and any(k.startswith('s1.0.') for k in state_dict)


def infer_structure(state_dict: Mapping[str, torch.Tensor]) -> Structure:
    """Read the structure off the tensors.

    Args:
        state_dict: Names as chinhsuanwu's code has them, without wrapper prefixes.

    Raises:
        CheckpointError: If a tensor that is needed for it is missing or has an impossible shape.
    """

    def shape(key: str, ndim: int) -> torch.Size:
        return shape_of(state_dict, key, ndim, IMPL)

    depths = [_count(state_dict, stage) for stage in range(5)]
    types, widths, heads, sizes = [], [], {}, {}
    for stage in range(1, 5):
        if not depths[stage]:
            raise CheckpointError(f'The chinhsuanwu checkpoint has no blocks in its stage s{stage}.')
        is_conv = any(k.startswith(f's{stage}.0.conv.') for k in state_dict)
        types.append('C' if is_conv else 'T')
        width_of = ('conv.fn.7.weight', 4) if is_conv else ('ff.1.norm.weight', 1)
        widths.append(shape(f's{stage}.0.{width_of[0]}', width_of[1])[0])
        for block in range(0 if is_conv else depths[stage]):
            prefix = f's{stage}.{block}.'
            num_heads = shape(prefix + _TABLE, 2)[1]
            heads[prefix] = (num_heads, shape(prefix + 'attn.1.fn.to_qkv.weight', 2)[0] // (3 * num_heads))
            grid = _grid(state_dict, prefix)
            sizes[prefix] = tuple(side * 2 ** (stage + 1) for side in grid)
    for what, values in (('heads of one kind', heads), ('one input size', sizes)):
        if len(set(values.values())) > 1:
            a, b = list(dict.fromkeys(values.values()))[:2]
            raise CheckpointError(f'The blocks of the chinhsuanwu checkpoint do not have {what}: {a} and {b}.')
    num_heads, dim_head = next(iter(heads.values()), (8, 32))
    return Structure(
        stem_width=tuple(shape(f's0.{i}.0.weight', 4)[0] for i in range(depths[0])),
        embed_dim=tuple(widths),
        depths=tuple(depths[1:]),
        block_types=''.join(types),
        num_heads=num_heads,
        dim_head=dim_head,
        in_chans=shape('s0.0.0.weight', 4)[1],
        num_classes=shape('fc.weight', 2)[0],
        img_size=next(iter(sizes.values()), None),
    )


def _count(state_dict: Mapping[str, Any], stage: int) -> int:
    indices = {int(m[1]) for k in state_dict if (m := re.match(rf's{stage}\.(\d+)\.', k))}
    return max(indices) + 1 if indices else 0


def _grid(state_dict: Mapping[str, torch.Tensor], prefix: str) -> tuple[int, int]:
    """(height, width) of the feature map that a block attends over, from its buffer of relative positions.

    The buffer lists, for every pair of positions, a row of the table; its first row counts down by one along the
    grid's first row and jumps at its end, which tells the width even where the table's length fits several grids.
    """
    index = state_dict.get(prefix + _INDEX)
    if index is None or index.numel() == 0:
        raise CheckpointError(f'The chinhsuanwu checkpoint lacks the buffer {prefix + _INDEX}, or it is empty.')
    n = math.isqrt(index.numel())
    first = index.flatten()[:n].tolist()
    width = next((j for j in range(1, n) if first[0] - first[j] != j), n)
    height = n // width
    table_rows = state_dict[prefix + _TABLE].shape[0]
    if height * width * height * width != index.numel() or (2 * height - 1) * (2 * width - 1) != table_rows:
        raise CheckpointError(
            f'In the chinhsuanwu checkpoint, {prefix + _INDEX} has {index.numel()} entries, which do not fit the '
            f'{table_rows} rows of {prefix + _TABLE}.'
        )
    return height, width


def key_map(structure: Structure) -> dict[str, str]:
    """Every tensor name of chinhsuanwu's code for a structure, with its name here."""
    names = {'fc.weight': 'head.fc.weight'}
    for i in range(len(structure.stem_width)):
        names[f's0.{i}.0.weight'] = f'stem.conv{i + 1}.weight'
        names.update({f's0.{i}.1.{p}': f'stem.norm{i + 1}.{p}' for p in _BATCH_NORM})
    for stage, (depth, kind) in enumerate(zip(structure.depths, structure.block_types, strict=True)):
        for block in range(depth):
            source, target = f's{stage + 1}.{block}.', f'stages.{stage}.blocks.{block}.'
            for theirs, (ours, params) in (_CONV if kind == 'C' else _TRANSFORMER).items():
                if kind == 'T' and block == 0 and ours == 'norm1':
                    ours = 'norm1.norm'  # beside norm1.down
                names.update({f'{source}{theirs}.{p}': f'{target}{ours}.{p}' for p in params})
            if kind == 'T':
                names[source + _TABLE] = target + 'attn.rel_pos.relative_position_bias_table'
            if block == 0:
                names[source + 'proj.weight'] = target + 'shortcut.expand.weight'
    return names


def to_canonical(state_dict: Mapping[str, torch.Tensor], structure: Structure) -> dict[str, torch.Tensor]:
    """Map a checkpoint of chinhsuanwu's code to this package's names and layouts.

    Args:
        state_dict: Names as chinhsuanwu's code has them, without wrapper prefixes.
        structure: What `infer_structure` read from it.

    Returns:
        Tensors by their name here; views of the given ones where the layout is the same.

    Raises:
        CheckpointError: If a tensor is missing or does not belong to such a network.
    """
    names = key_map(structure)
    state_dict = {**_left_out(names, structure), **state_dict}
    present = {k for k in state_dict if not k.endswith('.' + _INDEX)}
    check_names(present, names, IMPL)
    return {ours: _to_layout(ours, state_dict[theirs], structure) for theirs, ours in names.items()}


def _left_out(names: Iterable[str], structure: Structure) -> dict[str, torch.Tensor]:
    """Tensors that a checkpoint may lack: counters, and the projection that is an identity."""
    # Files from before torch 0.4.1 have no counters.
    tensors = {name: torch.tensor(0) for name in names if name.endswith('num_batches_tracked')}
    # That code leaves out the projection where one head is as wide as the block's input.
    if structure.num_heads == 1:
        dim = structure.dim_head
        projections = [name for name in names if '.to_out.0.' in name]
        tensors.update({k: torch.eye(dim) if k.endswith('weight') else torch.zeros(dim) for k in projections})
    return tensors


def _to_layout(name: str, tensor: torch.Tensor, structure: Structure) -> torch.Tensor:
    if name.endswith('attn.qkv.weight') and tensor.shape[0] == 3 * structure.num_heads * structure.dim_head:
        return rearrange(tensor, '(three h d) c -> (h three d) c', three=3, h=structure.num_heads)
    if '.se.fc' in name and tensor.ndim == 2:
        return rearrange(tensor, 'o i -> o i 1 1')
    return tensor
