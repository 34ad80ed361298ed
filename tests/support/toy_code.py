"""An invented third-party code, in the form in which anybody adds one: a file like this one, and the row `CODE`.

The code writes text, with a line for each tensor: name, shape and values. Its network is CoAtNet in the paper's
reading, except for the names, for linear layers that are stored transposed, and for the flavour below.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from coatnet_zoo import CheckpointError
from coatnet_zoo.convert import Checkpoint, Structure, Target, shape_of
from coatnet_zoo.registry import Implementation, ThirdPartyCode

IMPL = 'toy'
CODE = Implementation(
    'https://toy.example',
    flavour=dict(head_hidden=False, conv_act='relu', rel_attn='none', block_types='CCTT', dim_head=8),
    sizes={'coatnet_0': {}},
    code=ThirdPartyCode("somebody's toy", 'toy_code', suffixes=('.toy',), crop_pct=0.5),
)


def write(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    """Write a state dict of this package as that code would."""
    lines = []
    for name, tensor in tensors.items():
        if not name.endswith('num_batches_tracked'):
            tensor = tensor.t() if tensor.ndim == 2 else tensor
            values = ' '.join(str(v) for v in tensor.flatten().tolist())
            lines.append(f'toy/{name.replace(".", "/")} {",".join(map(str, tensor.shape))} {values}')
    file.write_text('\n'.join(lines))


def read(path: Path) -> Checkpoint:
    """The reader of that code."""
    tensors = {}
    for line in path.read_text().splitlines():
        name, shape, *values = line.split(' ')
        sides = [int(side) for side in shape.split(',')]
        tensors[name] = torch.tensor([float(v) for v in values]).reshape(sides)
    return Checkpoint(tensors)


def recognises(names: Collection[str]) -> bool:
    """Whether these names are those of the toy code."""
    return any(name.startswith('toy/stem/') for name in names)


def infer_structure(checkpoint: Checkpoint) -> Structure:
    """Read the structure off the tensors."""
    tensors = checkpoint.tensors
    blocks = [re.match(r'toy/stages/(\d)/blocks/(\d)/', name) for name in tensors]
    depths = [1 + max(int(m[2]) for m in blocks if m and m[1] == str(stage)) for stage in range(4)]
    last = {'C': 'conv3_1x1/weight', 'T': 'norm2/weight'}
    types = ['C' if f'toy/stages/{s}/blocks/0/{last["C"]}' in tensors else 'T' for s in range(4)]
    widths = [tensors[f'toy/stages/{s}/blocks/0/{last[t]}'].shape[0] for s, t in enumerate(types)]
    if 'toy/head/fc/weight' not in tensors:
        raise CheckpointError('The toy checkpoint has no classifier.')
    stem = [shape_of(tensors, f'toy/stem/conv{i}/weight', 4, IMPL) for i in (1, 2)]
    return Structure(
        stem_width=(stem[0][0], stem[1][0]),
        embed_dim=tuple(widths),
        depths=tuple(depths),
        block_types=''.join(types),
        num_heads=None,
        dim_head=8,
        in_chans=stem[0][1],
        num_classes=tensors['toy/head/fc/weight'].shape[1],
        img_size=None,
    )


def tensor_map(structure: Structure) -> dict[str, Target]:
    """Where every tensor goes: the names of this package with slashes, linear layers transposed."""
    # A real code lists its tensors; the toy code takes the names from the network.
    from coatnet_zoo import CoAtNet, resolve_cfg

    fields = {name: getattr(structure, name) for name in ('stem_width', 'embed_dim', 'depths', 'block_types')}
    own = CoAtNet(resolve_cfg('coatnet_0', IMPL, **fields), device='meta').state_dict()
    return {
        f'toy/{name.replace(".", "/")}': Target(name, 'i o -> o i' if tensor.ndim == 2 else None)
        for name, tensor in own.items()
        if not name.endswith('num_batches_tracked')
    }
