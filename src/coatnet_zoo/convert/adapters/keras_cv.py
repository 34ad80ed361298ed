"""Checkpoints of the CoAtNet of keras_cv_attention_models: reading files and structures, and where each tensor goes.

The same weights fit many networks, so the names of all layers, which contain the activations, are compared with those
of the network that this package builds. A file of a whole model also has the settings of its layers; of these, only
those are compared that an option of that code changes and no name or shape shows.

That code is MIT-licensed; this module uses only its tensor names, shapes, layouts and the settings of its layers.
"""

import functools
import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from ...errors import CheckpointError, shown
from ...registry import WEIGHTS, feature_sizes, num_offsets
from ..adapter import Checkpoint, Structure, Target, count_numbered, shape_of
from ..reading import corrupt

_IMPL = 'keras_cv'

Layers = Mapping[str, Mapping[str, Any]]

# The named layers of that code. `a=b` has the weights of our module b.
_STEM = 'stem_1_pad stem_1_conv=stem.conv1 stem_1_bn=stem.norm1 stem_1_gelu stem_2_pad stem_2_conv=stem.conv2'
_BLOCKS = {
    'C': """
        shortcut_pool shortcut_conv=shortcut.expand preact_bn=pre_norm
        expand_conv=conv1_1x1 expand_bn=norm1 expand_gelu
        MB_pad MB_dw_conv=conv2_kxk MB_dw_bn=norm2 MB_dw_gelu
        se_1_conv=se.fc1 se_gelu se_2_conv=se.fc2 se_sigmoid se_out
        MB_pw_conv=conv3_1x1 output
    """,
    'T': """
        shortcut_pool shortcut_conv=shortcut.expand preact_ln=norm1 pool
        mhsa_qkv_conv=attn.qkv mhsa_pos_emb=attn.rel_pos mhsa_attention_scores mhsa_output=attn.proj output
        ffn_preact_ln=norm2 ffn_1_conv=mlp.fc1 ffn_gelu ffn_2_conv=mlp.fc2 ffn_output
    """,
}
_HEAD = 'avg_pool predictions=head.fc'
# Layers without names of their own. They have no weights, and no other settings of use than the factor of queries.
_UNNAMED = re.compile(
    r'(input|reshape|tf\.(split|reshape|compat\.v1\.transpose|linalg\.matmul|math\.(reduce_mean|multiply)))(_[0-9]+)?'
    r'|head_drop|stack_[0-9]+_block_[0-9]+_(ffn_)?drop'
)

_AFFINE = {'gamma': ('weight', None), 'beta': ('bias', None)}
_STATISTICS = {'moving_mean': ('running_mean', None), 'moving_variance': ('running_var', None)}
_CONV = {'kernel': ('weight', 'h w i o -> o i h w')}
_DENSE = {'kernel': ('weight', 'i o -> o i')}
_BIAS = {'bias': ('bias', None)}
# The weights of a layer, with their names and layouts in this package, by the end of the name; the first that fits.
_WEIGHTS: dict[str, dict[str, tuple[str, str | None]]] = {
    'dw_conv': {'depthwise_kernel': ('weight', 'h w c m -> c m h w')},
    'mhsa_qkv_conv': {'kernel': ('weight', '1 1 i (three h d) -> (h three d) i')},
    'ffn_1_conv': {'kernel': ('weight', '1 1 i o -> o i')},
    'ffn_2_conv': {'kernel': ('weight', '1 1 i o -> o i')},
    'se_1_conv': {**_CONV, **_BIAS},
    'se_2_conv': {**_CONV, **_BIAS},
    'conv': _CONV,
    'bn': {**_AFFINE, **_STATISTICS},
    'ln': _AFFINE,
    'pos_emb': {'positional_embedding': ('relative_position_bias_table', 'h n -> n h')},
    'mhsa_output': _DENSE,
    'predictions': {**_DENSE, **_BIAS},
}


def _network(s: Structure) -> dict[str, str | None]:
    """Every named layer of that code's network for a structure, with our module, if any.

    That code numbers stacks of blocks of one kind. A stage of convolutions and attention, as in CoAtNet-6 and -7, is
    two stacks, of which the second has no stride.
    """
    network = _layers(_STEM)
    stack, number = 0, 0
    for stage, (types, depth) in enumerate(zip(s.block_types, s.depths, strict=True)):
        types = types * depth if len(types) == 1 else types
        for block, kind in enumerate(types):
            is_first = block == 0 or kind != types[block - 1]
            stack, number = (stack + 1, 1) if is_first else (stack, number + 1)
            names = _BLOCKS[kind]
            if block == 0:
                names = names.replace('preact_ln=norm1', 'preact_ln=norm1.norm')  # the pooling is norm1.down
            else:
                names = names.replace(' shortcut_pool', '').replace(' pool', '')
            if not is_first:
                names = names.replace(' shortcut_conv=shortcut.expand', '')
            network |= _layers(names, f'stack_{stack}_block_{number}_', f'stages.{stage}.blocks.{block}.')
    return network | (_layers(_HEAD) if s.num_classes else {})


def _layers(names: str, prefix: str = '', ours: str = '') -> dict[str, str | None]:
    pairs = (word.partition('=') for word in names.split())
    return {prefix + name: ours + module if module else None for name, _, module in pairs}


def tensor_map(structure: Structure) -> dict[str, Target]:
    """Every tensor of that code for a structure, with where it goes."""
    targets = {}
    for layer, module in _network(structure).items():
        if module is not None:
            weights = next(weights for end, weights in _WEIGHTS.items() if layer.endswith(end))
            for theirs, (ours, layout) in weights.items():
                targets[f'{layer}/{theirs}'] = Target(f'{module}.{ours}', layout)
    return targets


def recognises(names: Collection[str]) -> bool:
    """Whether these names are those of the CoAtNet of keras_cv_attention_models."""
    return 'stem_1_conv/kernel' in names and any(name.startswith('stack_1_block_1_preact_') for name in names)


def infer_structure(checkpoint: Checkpoint) -> Structure:
    """Read the structure from the tensors, and from the layers if the file describes its layers.

    Raises:
        CheckpointError: If a tensor that shows the structure is missing or has an impossible shape, if a layer does
            what no CoAtNet of this package does, or if this package cannot build the network for its image size.
    """
    for layer, settings in checkpoint.layers.items():
        if layer != 'predictions' and settings.get('activation') not in (None, 'linear', 'gelu', 'sigmoid'):
            raise _refusal(layer, f'activation={settings["activation"]!r}', 'gelu')
    tensors = checkpoint.tensors
    shape = functools.partial(shape_of, tensors, impl=_IMPL)
    stacks = count_numbered(tensors, 'stack_', '_')
    if stacks not in (4, 5):
        raise CheckpointError(f'The {_IMPL} checkpoint has {stacks} stacks of blocks, not 4, or 5 as in -6 and -7.')
    depths, types, widths, ratios, heads, offsets = [], [], [], set(), set(), []
    for stack in range(1, stacks + 1):
        depths.append(count_numbered(tensors, f'stack_{stack}_block_', '_'))
        types.append('C' if any(name.startswith(f'stack_{stack}_block_1_expand_') for name in tensors) else 'T')
        first, last = ('expand_conv', 'MB_pw_conv') if types[-1] == 'C' else ('ffn_1_conv', 'ffn_2_conv')
        for block in range(1, depths[-1] + 1):
            prefix = f'stack_{stack}_block_{block}_'
            expand = shape(f'{prefix}{first}/kernel', 4)
            ratios.add(expand[3] / expand[2])
            if types[-1] == 'T':
                num_heads, count = shape(f'{prefix}mhsa_pos_emb/positional_embedding', 2)
                heads.add(shape(f'{prefix}mhsa_qkv_conv/kernel', 4)[3] / (3 * num_heads))
                offsets.append((stack - (stacks == 5 and stack > 3), count))
        widths.append(shape(f'stack_{stack}_block_1_{last}/kernel', 4)[3])
    for what, values in (('one expansion', ratios), ('heads of one width', heads)):
        if len(values) > 1 or any(v % 1 for v in values):
            raise CheckpointError(f'The blocks of the {_IMPL} checkpoint do not have {what}, but {sorted(values)}.')
    if stacks == 5:
        types[2:4] = [types[2] * depths[2] + types[3] * depths[3]]
        widths[2:4] = [(widths[2],) * depths[2] + (widths[3],) * depths[3]]
        depths[2:4] = [depths[2] + depths[3]]
    kernel = shape('stem_1_conv/kernel', 4)
    structure = Structure(
        stem_width=(kernel[3], shape('stem_2_conv/kernel', 4)[3]),
        embed_dim=tuple(widths),
        depths=tuple(depths),
        block_types=''.join(types) if stacks == 4 else tuple(types),
        num_heads=None,
        dim_head=int(next(iter(heads), 32)),
        in_chans=kernel[2],
        num_classes=shape('predictions/kernel', 2)[1] if 'predictions/kernel' in tensors else 0,
        img_size=_img_size(checkpoint.layers, kernel[2], offsets),
        expand_ratio=next(iter(ratios)),
    )
    _check_layers(checkpoint.layers, structure)
    return structure


def _img_size(layers: Layers, in_chans: int, offsets: list[tuple[int, int]]) -> tuple[int, int] | None:
    """(height, width) of the images, from the input layer or else from the position tables.

    `offsets` has, for every table, the stage (from 1) and the number of offsets, (2h-1)(2w-1).
    """
    size = None
    for name, settings in layers.items():
        match shape := settings.get('batch_input_shape', settings.get('batch_shape')):
            case None:
                continue
            case [_, int(height), int(width), channels] if height > 0 and width > 0 and channels == in_chans:
                size = height, width
            case _:
                raise _refusal(name, f'the shape {shape!r}', f'[null, height, width, {in_chans}]')
    if size is None and offsets:
        # The largest size with these tables. All sizes with these tables give the same network.
        stage, count = offsets[0]
        size = ((math.isqrt(count) + 1) // 2 * 2 ** (stage + 1),) * 2
    for stage, count in offsets:
        if size[0] != size[1] or num_offsets(feature_sizes(size, 4)[stage - 1]) != count:
            raise CheckpointError(
                f'The {_IMPL} checkpoint has a position table of {count} offsets in stage {stage}, for images of '
                f'{size[0]}x{size[1]} pixels; only networks of the usual strides for square images can be converted, '
                'as that code mixes up rows and columns of other images.'
            )
    return size


def _check_layers(layers: Layers, structure: Structure) -> None:
    """Refuse a file whose layers are not those of the network that its tensors fit."""
    expected, factor = _network(structure), 1 / math.sqrt(structure.dim_head)
    for name, settings in layers.items():
        if name not in expected and not _UNNAMED.fullmatch(name) and (settings or name.startswith(('stem_', 'stack_'))):
            raise CheckpointError(f'The {_IMPL} checkpoint has the layer {shown(name)}, which is not supported.')
        strides = [2, 2] if name == 'stem_1_conv' or name.endswith(('block_1_MB_dw_conv', 'pool')) else [1, 1]
        if settings.get('strides', strides) != strides:
            raise _refusal(name, f'strides={settings["strides"]!r}', strides)
        y = settings.get('y', factor)
        if 'multiply' in name and not (isinstance(y, float) and math.isclose(y, factor, rel_tol=1e-6)):
            raise _refusal(name, f'{y=!r}', factor)
    missing = [name for name in expected if name not in layers]
    if missing and any(layers.values()):
        raise CheckpointError(f'The {_IMPL} checkpoint lacks the layer {missing[0]}.')


def _refusal(name: str, what: str, right: Any) -> CheckpointError:
    return CheckpointError(f'The {_IMPL} checkpoint has {shown(what)} in {shown(name)}; only {right} is supported.')


def read(path: Path) -> Checkpoint:
    """Read a `.h5` file of Keras, written with `model.save` or `model.save_weights`.

    Tensors have names as `stem_1_conv/kernel`, and Keras' layouts. A file of weights only has no settings of layers.

    Raises:
        CheckpointError: If h5py is not installed, or if the file is damaged or refers to other files.
    """
    try:
        import h5py
    except ImportError as e:
        raise CheckpointError(f"{path} is an HDF5 file, which needs h5py: pip install 'coatnet-zoo[keras]'.") from e
    tensors: dict[str, torch.Tensor] = {}
    try:
        with h5py.File(path, 'r') as file:
            items: dict[str, Any] = {}
            # `visititems` follows no soft or external links, which may lead to other files.
            file.visititems(lambda name, item: items.update({name: item}))
            if any(name.startswith('model_weights/') for name in items):  # and not the state of the optimiser
                items = {name[14:]: item for name, item in items.items() if name.startswith('model_weights/')}
            for name, item in items.items():
                if isinstance(item, h5py.Dataset) and item.dtype.kind == 'f':
                    layer, *_, weight = name.partition(':')[0].split('/')
                    # The table has several names across versions; Keras finds the table by the name of its layer.
                    key = f'{layer}/{"positional_embedding" if layer.endswith("_pos_emb") else weight}'
                    if key in tensors:
                        raise ValueError(f'it has two weights named {key}')
                    if item.external or item.is_virtual:
                        raise ValueError(f'it keeps {key} in another file, which is not followed')
                    # Otherwise h5py would allocate as much memory as a damaged header claims.
                    if item.id.get_storage_size() < item.nbytes:
                        raise ValueError(f'it lacks a part of {key}, or has it compressed')
                    values = item.astype(f'f{min(item.dtype.itemsize, 8)}')[()]
                    tensors[key] = torch.from_numpy(values.reshape(item.shape))
            description = file.attrs.get('model_config')
            if description is None:
                layers = {name.split('/')[0]: {} for name in items}
            else:
                # Earlier versions of that code built the published networks from other operations.
                md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
                layers = {} if md5 in {w.md5 for w in WEIGHTS.values()} else _describe(description)
    except Exception as e:  # h5py raises most kinds of exceptions on damaged files
        raise corrupt(path, 'HDF5 file of Keras', e) from e
    if not tensors:
        raise CheckpointError(f'{path} holds no weights; save a model that has some.')
    return Checkpoint(tensors, layers)


def _describe(model_config: str | bytes) -> dict[str, dict[str, Any]]:
    """The settings of every layer by name, from the description in the file of a whole model, or any exception."""
    layers: dict[str, dict[str, Any]] = {}
    for layer in json.loads(model_config)['config']['layers']:
        name, nodes = layer['config']['name'], layer['inbound_nodes']
        if not isinstance(name, str) or name in layers:
            raise ValueError(f'the layer {shown(name)} has no name, or appears twice')
        # An operation has one input, and its arguments.
        layers[name] = {**layer['config'], **(nodes[0][3] if nodes and isinstance(nodes[0][0], str) else {})}
    return layers
