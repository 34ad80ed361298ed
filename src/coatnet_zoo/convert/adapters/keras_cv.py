"""Checkpoints of the CoAtNet of keras_cv_attention_models: reading their structure, and where each tensor goes.

A Keras file of a whole model has the class and the settings of every layer. The same weights fit many networks, so
every named layer is compared with that of the network that this package builds; how the layers are connected is not. A
file of weights only has the names of its layers, and these names contain the activations.

That code is MIT-licensed; this module uses only its tensor names, shapes, layouts and the settings of its layers.
"""

import functools
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from ...errors import CheckpointError, shown
from ...registry import feature_sizes, num_offsets
from ..adapter import Checkpoint, Structure, Target, count_numbered, shape_of
from .keras_h5 import read_h5 as read

__all__ = ['infer_structure', 'read', 'recognises', 'tensor_map']

_IMPL = 'keras_cv'

Settings = dict[str, Any]
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

_LAST = dict(data_format='channels_last')
_CONV = dict(_LAST, strides=[1, 1], padding='valid', dilation_rate=[1, 1], groups=1, activation='linear')
_NORM = dict(axis=[3], epsilon=1e-5, center=True, scale=True)
# Class and settings of the layers, by the end of the name; the first that fits. A tuple has all allowed values.
_KINDS: dict[str, tuple[str, Settings]] = {
    'stem_1_conv': ('Conv2D', dict(_CONV, strides=[2, 2], use_bias=False)),
    'dw_conv': ('DepthwiseConv2D', dict(_CONV, use_bias=False, depth_multiplier=1)),
    'se_1_conv': ('Conv2D', dict(_CONV, use_bias=True)),
    'se_2_conv': ('Conv2D', dict(_CONV, use_bias=True)),
    'conv': ('Conv2D', dict(_CONV, use_bias=False)),
    'bn': ('BatchNormalization', _NORM),
    'ln': ('LayerNormalization', _NORM),
    'gelu': ('Activation', dict(activation='gelu')),
    'sigmoid': ('Activation', dict(activation='sigmoid')),
    'pad': ('ZeroPadding2D', dict(_LAST, padding=[[1, 1], [1, 1]])),
    'avg_pool': ('GlobalAveragePooling2D', dict(_LAST, keepdims=False)),
    'pool': ('MaxPooling2D', dict(_LAST, pool_size=[2, 2], strides=[2, 2], padding='same')),
    'se_out': ('Multiply', {}),
    'pos_emb': ('MultiHeadRelativePositionalEmbedding', dict(with_cls_token=False)),
    'scores': ('Softmax', dict(axis=-1)),
    'mhsa_output': ('Dense', dict(activation='linear', use_bias=False)),
    'output': ('Add', {}),
    'predictions': ('Dense', dict(activation=('linear', 'softmax'), use_bias=True)),
}
_AFFINE = {'gamma': ('weight', None), 'beta': ('bias', None)}
_STATISTICS = {'moving_mean': ('running_mean', None), 'moving_variance': ('running_var', None)}
# The weights of a layer, with their names and layouts in this package, by the end of the name.
_WEIGHTS: dict[str, dict[str, tuple[str, str | None]]] = {
    'dw_conv': {'depthwise_kernel': ('weight', 'h w c m -> c m h w')},
    'mhsa_qkv_conv': {'kernel': ('weight', '1 1 i (three h d) -> (h three d) i')},
    'ffn_1_conv': {'kernel': ('weight', '1 1 i o -> o i')},
    'ffn_2_conv': {'kernel': ('weight', '1 1 i o -> o i')},
    'conv': {'kernel': ('weight', 'h w i o -> o i h w')},
    'bn': {**_AFFINE, **_STATISTICS},
    'ln': _AFFINE,
    'pos_emb': {'positional_embedding': ('relative_position_bias_table', 'h n -> n h')},
    'mhsa_output': {'kernel': ('weight', 'i o -> o i')},
    'predictions': {'kernel': ('weight', 'i o -> o i')},
}


class _Layer(NamedTuple):
    """A layer of that code: class, settings, and our module, if any."""

    kind: str
    settings: Settings
    ours: str | None = None


def _network(s: Structure) -> dict[str, _Layer]:
    """Every named layer of that code's network for a structure.

    That code numbers stacks of blocks of one kind. A stage of convolutions and attention, as in CoAtNet-6 and -7, is
    two stacks, of which the second has no stride.
    """
    network = _layers(_STEM)
    stack, number, width = 0, 0, s.stem_width[-1]
    grids = feature_sizes(s.img_size or (1, 1), 4)  # only Transformer blocks depend on the size
    for stage, (types, widths, depth) in enumerate(zip(s.block_types, s.embed_dim, s.depths, strict=True)):
        types = types * depth if len(types) == 1 else types
        widths = (widths,) * depth if isinstance(widths, int) else widths
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
            heads = width // s.dim_head
            settings = {
                'MB_dw_conv': dict(strides=[2, 2] if block == 0 else [1, 1]),
                'mhsa_pos_emb': dict(attn_height=grids[stage][0], num_heads=(-1, heads)),
            }
            network |= _layers(names, f'stack_{stack}_block_{number}_', f'stages.{stage}.blocks.{block}.', settings)
            width = widths[block]
    return network | (_layers(_HEAD) if s.num_classes else {})


def _layers(
    names: str, prefix: str = '', ours: str = '', settings: Mapping[str, Settings] | None = None
) -> dict[str, _Layer]:
    layers = {}
    for name, _, module in (word.partition('=') for word in names.split()):
        kind, usual = _by_end(_KINDS, name)
        layers[prefix + name] = _Layer(kind, usual | (settings or {}).get(name, {}), ours + module if module else None)
    return layers


def _by_end(table: Mapping[str, Any], name: str) -> Any:
    return next(value for end, value in table.items() if name.endswith(end))


def tensor_map(structure: Structure) -> dict[str, Target]:
    """Every tensor of that code for a structure, with where it goes."""
    targets = {}
    for name, layer in _network(structure).items():
        if layer.ours is not None:
            for theirs, (ours, layout) in _by_end(_WEIGHTS, name).items():
                targets[f'{name}/{theirs}'] = Target(f'{layer.ours}.{ours}', layout)
            if layer.settings.get('use_bias'):
                targets[f'{name}/bias'] = Target(f'{layer.ours}.bias')
    return targets


def recognises(names: Collection[str]) -> bool:
    """Whether these names are those of the CoAtNet of keras_cv_attention_models."""
    return 'stem_1_conv/kernel' in names and any(name.startswith('stack_1_block_1_preact_') for name in names)


def infer_structure(checkpoint: Checkpoint) -> Structure:
    """Read the structure from the tensors, and from the layers if the file describes its layers.

    Raises:
        CheckpointError: If a tensor that tells the structure is missing or has an impossible shape, if a layer does
            what no CoAtNet of this package does, or if this package cannot build the network for its image size.
    """
    tensors = checkpoint.tensors
    shape = functools.partial(shape_of, tensors, impl=_IMPL)
    stacks = count_numbered(tensors, 'stack_', '_')
    if stacks not in (4, 5):
        raise CheckpointError(
            f'The {_IMPL} checkpoint has {stacks} stacks of blocks; CoAtNet has 4, or 5 in -6 and -7.'
        )
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
    inputs = {name: layer['settings'] for name, layer in layers.items() if layer.get('class_name') == 'InputLayer'}
    for name, settings in inputs.items():
        match shape := settings.get('batch_input_shape', settings.get('batch_shape')):
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


# Settings that change what a trained layer computes by rounding at most, or that the shape of its kernel decides.
_NEUTRAL = re.compile(
    'name|trainable|dtype|momentum|conjugate|filters|kernel_size|units|.*_(initializer|regularizer|constraint)'
)
# Settings that older versions do not write.
_OPTIONAL: Settings = dict(groups=1, keepdims=False, num_heads=-1)
# Layers and operations without names of their own, which have no weights and, in evaluation, no other settings of use.
_UNNAMED = ('InputLayer', 'Dropout', 'split', 'Reshape', 'reshape', 'compat.v1.transpose', 'linalg.matmul')
_ACTIVATED = re.compile(r'stem_1_|stack_[0-9]+_block_[0-9]+_(expand|MB_dw|se|ffn)_')


def _check_layers(layers: Layers, structure: Structure) -> None:
    """Refuse a file whose layers are not those of the network that its tensors fit."""
    expected = _network(structure)
    if not any(layers.values()):
        for name in layers:
            if _ACTIVATED.match(name) and name not in expected and not name.endswith('_drop'):
                raise CheckpointError(f'The {_IMPL} checkpoint has the layer {shown(name)}, which is not supported.')
        return
    operations = {kind: _Layer(kind, {}) for kind in _UNNAMED}
    operations['math.reduce_mean'] = _Layer('math.reduce_mean', dict(axis=[1, 2], keepdims=True))
    operations['math.multiply'] = _Layer('math.multiply', dict(y=1 / math.sqrt(structure.dim_head)))
    for name, layer in layers.items():
        kind = layer['class_name'].split('>')[-1]
        settings = {key: value for key, value in layer['settings'].items() if not _NEUTRAL.fullmatch(key)}
        if kind == 'TFOpLambda':
            kind = str(settings.pop('function', kind))
        right = expected.get(name, operations.get(kind))
        if right is None:
            raise CheckpointError(
                f'The {_IMPL} checkpoint has the layer {shown(name)} ({shown(kind)}), which is not supported.'
            )
        if kind != right.kind:
            raise _refusal(name, ', '.join([kind, *(f'{k}={v!r}' for k, v in settings.items())]), right.kind)
        for key in sorted({*settings, *right.settings} if name in expected else right.settings):
            value, allowed = settings.get(key, _OPTIONAL.get(key)), right.settings.get(key)
            if not any(_same(value, one) for one in (allowed if isinstance(allowed, tuple) else [allowed])):
                raise _refusal(name, f'{key}={value!r}', allowed)
    if missing := next((name for name in expected if name not in layers), None):
        raise CheckpointError(f'The {_IMPL} checkpoint lacks the layer {missing}.')


def _same(value: Any, right: Any) -> bool:
    if isinstance(right, float):
        return type(value) in (int, float) and math.isclose(value, right, rel_tol=1e-6)
    return type(value) is type(right) and value == right


def _refusal(name: str, what: str, right: Any) -> CheckpointError:
    expected = 'no such setting' if right is None else shown(str(right))
    return CheckpointError(
        f'The {_IMPL} checkpoint has {shown(what)} in {shown(name)}, where only {expected} is supported.'
    )
