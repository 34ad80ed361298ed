"""Comparing the layers that a `.h5` file describes with what this package computes, layer by layer.

A Keras file of a whole model describes its network: class, settings and inputs of every layer. The same weights fit
many networks, so every layer is compared with the expected layer. A file of weights only has the names of its layers,
and these names contain the activations.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import CheckpointError, shown

_IMPL = 'keras_cv'
# Settings that do not change what a trained layer computes.
_NEUTRAL = re.compile(r'name|trainable|dtype|momentum|conjugate|.*_(initializer|regularizer|constraint)')
# Half precision computes the same, except for rounding.
_DTYPES = ('float32', 'mixed_float16', 'mixed_bfloat16')
# The names that the code chose. Keras numbers all other layers.
_NAMED = re.compile(r'(stem|stack)_|avg_pool$|predictions$')
_ACTIVATED = re.compile(r'stem_1_|stack_[0-9]+_block_[0-9]+_(expand|MB_dw|se|ffn)_')
_MAX_STEPS = 100

Settings = dict[str, Any]


@dataclass(frozen=True)
class Stack:
    """A stack of blocks of one kind.

    Attributes:
        number: Number of the stack, from 1.
        kind: `C` or `T`.
        depth: Number of blocks.
        stride: Stride of the first block.
        grid: (height, width) of the feature map.
        heads: Attention heads of every block; empty for `C`.
    """

    number: int
    kind: str
    depth: int
    stride: int
    grid: tuple[int, int]
    heads: tuple[int, ...]


@dataclass(frozen=True)
class _Layer:
    kind: str
    settings: Settings
    inputs: tuple[str, ...]


def check_layers(
    layers: Mapping[str, Mapping[str, Any]], stacks: list[Stack], dim_head: int, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Refuse a file whose layers are not those of the network that its tensors fit.

    Args:
        layers: The layers by name, from `keras_h5.read_h5`.
        stacks: The stacks of the network.
        dim_head: Width of a head.
        tensors: Tensors by name.

    Raises:
        CheckpointError: If a layer is wrong. The message names the layer and the setting.
    """
    expected = dict(_expected(stacks, tensors))
    if not any(layers.values()):
        for name in layers:
            if _ACTIVATED.match(name) and name not in expected and not name.endswith('_drop'):
                raise CheckpointError(f'The {_IMPL} checkpoint has the layer {shown(name)}, which is not supported.')
        return
    for name, layer in layers.items():
        _check_dtype(name, layer['config'].get('dtype'))
        if name in expected:
            _check_layer(name, layer, expected[name], layers)
        elif _NAMED.match(name) and not _is_dropout(layer):
            raise _unlike(name, layer, 'which is not a layer of a CoAtNet of this package')
    missing = next((name for name in expected if name not in layers), None)
    if missing is not None:
        raise CheckpointError(f'The {_IMPL} checkpoint lacks the layer {missing}.')
    _check_unnamed(layers, stacks, dim_head)


def input_size(layers: Mapping[str, Mapping[str, Any]], in_chans: int) -> tuple[int, int] | None:
    """(height, width) of the images that the network was built for, or None if the file does not state a size.

    Raises:
        CheckpointError: If the file describes layers, but not exactly one input of images with `in_chans` channels.
    """
    if not any(layers.values()):
        return None
    inputs = {name: layer['config'] for name, layer in layers.items() if layer['class_name'] == 'InputLayer'}
    if len(inputs) != 1:
        raise CheckpointError(f'The {_IMPL} checkpoint has {len(inputs)} inputs, not one.')
    name, config = inputs.popitem()
    for key, value in _settings(config).items():
        if key not in ('batch_input_shape', 'batch_shape') and value is not False:
            raise _refusal(name, f'{key}={value!r}', False)
    shape = config.get('batch_input_shape', config.get('batch_shape'))
    match shape:
        case [_, int(height), int(width), channels] if height > 0 and width > 0 and channels == in_chans:
            return height, width
    raise _refusal(name, f'the shape {shape!r}', f'[null, height, width, {in_chans}]')


def _is_dropout(layer: Mapping[str, Any]) -> bool:
    return layer['class_name'] == 'Dropout'


def _check_dtype(name: str, dtype: Any) -> None:
    policy = dtype
    if isinstance(dtype, dict) and isinstance(dtype.get('config'), dict):
        policy = dtype['config'].get('name')
    if dtype is not None and policy not in _DTYPES:
        raise _refusal(name, f'dtype={shown(json.dumps(policy))}', 'float32')


def _check_layer(name: str, layer: Mapping[str, Any], expected: _Layer, layers: Mapping[str, Any]) -> None:
    kind = layer['class_name'].split('>')[-1]
    if kind != expected.kind:
        raise _unlike(name, layer, f'where {expected.kind} is expected')
    settings = _settings(layer['config'])
    for key in sorted({*settings, *expected.settings}):
        value, right = settings.get(key, _OPTIONAL.get(key)), expected.settings.get(key)
        if not (value in right if isinstance(right, tuple) else _same(value, right)):
            raise _refusal(name, f'{key}={value!r}', right)
    if (inputs := tuple(_named_inputs(name, layers))) != expected.inputs:
        raise _refusal(name, f'the inputs {", ".join(inputs)}', ', '.join(expected.inputs))


# Settings that older versions of Keras and of that code do not write.
_OPTIONAL: Settings = dict(groups=1, keepdims=False, num_heads=-1)


def _settings(config: Mapping[str, Any]) -> Settings:
    return {key: value for key, value in config.items() if not _NEUTRAL.fullmatch(key)}


def _same(value: Any, right: Any) -> bool:
    if isinstance(right, float):
        return type(value) in (int, float) and math.isclose(value, right, rel_tol=1e-6)
    return type(value) is type(right) and value == right


def _refusal(name: str, what: str, right: Any) -> CheckpointError:
    expected = 'no such setting' if right is None else shown(str(right))
    return CheckpointError(
        f'The {_IMPL} checkpoint has {shown(what)} in {shown(name)}, where only {expected} is supported.'
    )


def _unlike(name: str, layer: Mapping[str, Any], why: str) -> CheckpointError:
    settings = ''.join(f', {key}={value!r}' for key, value in _settings(layer['config']).items())
    return CheckpointError(
        f'The {_IMPL} checkpoint has {shown(layer["class_name"] + settings)} in {shown(name)}, {why}.'
    )


def _named_inputs(name: str, layers: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The named layers that a layer gets its inputs from. The search passes through unnamed layers and dropout."""
    unseen = list(reversed(layers[name]['inputs']))
    for _ in range(_MAX_STEPS):
        if not unseen:
            return
        source = unseen.pop()
        if source not in layers:
            raise CheckpointError(f'The {_IMPL} checkpoint lacks the layer {shown(source)}, an input of {shown(name)}.')
        layer = layers[source]
        if layer['class_name'] == 'InputLayer' or (_NAMED.match(source) and not _is_dropout(layer)):
            yield 'input' if layer['class_name'] == 'InputLayer' else source
        else:
            unseen.extend(reversed(layer['inputs']))
    raise CheckpointError(f'The {_IMPL} checkpoint has layers that are inputs of themselves, before {shown(name)}.')


def _expected(stacks: list[Stack], tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, _Layer]]:
    """Every named layer that the network should have, with its name."""
    yield from _stem(tensors)
    before = 'stem_2_conv'
    for stack in stacks:
        for block in range(1, stack.depth + 1):
            prefix = f'stack_{stack.number}_block_{block}_'
            build = _mbconv if stack.kind == 'C' else _transformer
            for name, layer in build(stack, block == 1, prefix, before, tensors):
                yield name, layer
            before = name
    if 'predictions/kernel' not in tensors:
        return
    yield 'avg_pool', _Layer('GlobalAveragePooling2D', dict(_LAST, keepdims=False), (before,))
    head = dict(units=tensors['predictions/kernel'].shape[1], activation=('linear', 'softmax'), use_bias=True)
    yield 'predictions', _Layer('Dense', head, ('avg_pool',))


_LAST = dict(data_format='channels_last')
_BATCH_NORM = dict(axis=[3], epsilon=1e-5, center=True, scale=True)
_PAD = dict(_LAST, padding=[[1, 1], [1, 1]])
_POOL = dict(_LAST, pool_size=[2, 2], strides=[2, 2], padding='same')


def _conv(name: str, tensors: Mapping[str, torch.Tensor], stride: int = 1, bias: bool = False) -> Settings:
    depthwise = name.endswith('dw_conv')
    kernel = tensors.get(f'{name}/{"depthwise_kernel" if depthwise else "kernel"}')
    if kernel is None or kernel.ndim != 4:
        raise CheckpointError(f'The {_IMPL} checkpoint lacks the weights of the convolution {name}.')
    return dict(
        _LAST,
        kernel_size=list(kernel.shape[:2]),
        strides=[stride] * 2,
        padding='valid',
        dilation_rate=[1, 1],
        groups=1,
        activation='linear',
        use_bias=bias,
        **(dict(depth_multiplier=1) if depthwise else dict(filters=kernel.shape[3])),
    )


def _stem(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, _Layer]]:
    yield 'stem_1_pad', _Layer('ZeroPadding2D', _PAD, ('input',))
    yield 'stem_1_conv', _Layer('Conv2D', _conv('stem_1_conv', tensors, 2), ('stem_1_pad',))
    yield 'stem_1_bn', _Layer('BatchNormalization', _BATCH_NORM, ('stem_1_conv',))
    yield 'stem_1_gelu', _Layer('Activation', dict(activation='gelu'), ('stem_1_bn',))
    yield 'stem_2_pad', _Layer('ZeroPadding2D', _PAD, ('stem_1_gelu',))
    yield 'stem_2_conv', _Layer('Conv2D', _conv('stem_2_conv', tensors), ('stem_2_pad',))


_Layers = Iterator[tuple[str, _Layer]]


def _shortcut(stack: Stack, prefix: str, before: str, tensors: Mapping[str, torch.Tensor]) -> _Layers:
    name = before
    if stack.stride == 2:
        name = f'{prefix}shortcut_pool'
        yield name, _Layer('MaxPooling2D', _POOL, (before,))
    yield f'{prefix}shortcut_conv', _Layer('Conv2D', _conv(f'{prefix}shortcut_conv', tensors), (name,))


def _chain(prefix: str, before: str, steps: list[tuple[str, str, Settings]]) -> _Layers:
    """Layers in a chain: each layer takes the output of the layer before."""
    for name, kind, settings in steps:
        yield prefix + name, _Layer(kind, settings, (before,))
        before = prefix + name


def _mbconv(stack: Stack, first: bool, p: str, before: str, tensors: Mapping[str, torch.Tensor]) -> _Layers:
    gelu = ('Activation', dict(activation='gelu'))
    norm = ('BatchNormalization', _BATCH_NORM)
    if first:
        yield from _shortcut(stack, p, before, tensors)
    stride = stack.stride if first else 1
    branch = [
        ('preact_bn', *norm),
        ('expand_conv', 'Conv2D', _conv(f'{p}expand_conv', tensors)),
        ('expand_bn', *norm),
        ('expand_gelu', *gelu),
        ('MB_pad', 'ZeroPadding2D', _PAD),
        ('MB_dw_conv', 'DepthwiseConv2D', _conv(f'{p}MB_dw_conv', tensors, stride)),
        ('MB_dw_bn', *norm),
        ('MB_dw_gelu', *gelu),
        ('se_1_conv', 'Conv2D', _conv(f'{p}se_1_conv', tensors, bias=True)),
        ('se_gelu', *gelu),
        ('se_2_conv', 'Conv2D', _conv(f'{p}se_2_conv', tensors, bias=True)),
        ('se_sigmoid', 'Activation', dict(activation='sigmoid')),
    ]
    yield from _chain(p, before, branch)
    yield f'{p}se_out', _Layer('Multiply', {}, (f'{p}MB_dw_gelu', f'{p}se_sigmoid'))
    yield f'{p}MB_pw_conv', _Layer('Conv2D', _conv(f'{p}MB_pw_conv', tensors), (f'{p}se_out',))
    shortcut = f'{p}shortcut_conv' if first else before
    yield f'{p}output', _Layer('Add', {}, (shortcut, f'{p}MB_pw_conv'))


def _transformer(stack: Stack, first: bool, p: str, before: str, tensors: Mapping[str, torch.Tensor]) -> _Layers:
    norm = ('LayerNormalization', _BATCH_NORM)
    if first:
        yield from _shortcut(stack, p, before, tensors)
    pool = [('pool', 'MaxPooling2D', _POOL)] if first and stack.stride == 2 else []
    qkv = ('mhsa_qkv_conv', 'Conv2D', _conv(f'{p}mhsa_qkv_conv', tensors))
    yield from _chain(p, before, [('preact_ln', *norm), *pool, qkv])
    heads = tensors[f'{p}mhsa_pos_emb/positional_embedding'].shape[0]
    table = dict(with_cls_token=False, attn_height=stack.grid[0], num_heads=(-1, heads))
    positions = 'MultiHeadRelativePositionalEmbedding'
    yield f'{p}mhsa_pos_emb', _Layer(positions, table, (f'{p}mhsa_qkv_conv',) * 2)
    yield f'{p}mhsa_attention_scores', _Layer('Softmax', dict(axis=-1), (f'{p}mhsa_pos_emb',))
    output = tensors.get(f'{p}mhsa_output/kernel', torch.empty(0, 0))
    dense = dict(units=output.shape[-1], activation='linear', use_bias=False)
    yield f'{p}mhsa_output', _Layer('Dense', dense, (f'{p}mhsa_attention_scores', f'{p}mhsa_qkv_conv'))
    shortcut = f'{p}shortcut_conv' if first else before
    yield f'{p}output', _Layer('Add', {}, (shortcut, f'{p}mhsa_output'))
    ffn = [
        ('ffn_preact_ln', *norm),
        ('ffn_1_conv', 'Conv2D', _conv(f'{p}ffn_1_conv', tensors)),
        ('ffn_gelu', 'Activation', dict(activation='gelu')),
        ('ffn_2_conv', 'Conv2D', _conv(f'{p}ffn_2_conv', tensors)),
    ]
    yield from _chain(p, f'{p}output', ffn)
    yield f'{p}ffn_output', _Layer('Add', {}, (f'{p}output', f'{p}ffn_2_conv'))


def _check_unnamed(layers: Mapping[str, Mapping[str, Any]], stacks: list[Stack], dim_head: int) -> None:
    """Compare the settings and the number of the unnamed operations."""
    left = Counter(_operations(stacks, dim_head))
    for name, layer in layers.items():
        if layer['class_name'] == 'InputLayer' or _NAMED.match(name) or _is_dropout(layer):
            continue
        settings = {**layer['config'], **layer['arguments']}
        kind = layer['class_name']
        if kind == 'TFOpLambda':
            kind = settings.pop('function', kind)
        operation = _operation(kind, settings, layer['outputs'])
        if not left[operation]:
            raise _unlike(name, dict(layer, config=settings), 'which no CoAtNet of this package computes there')
        left[operation] -= 1
    if +left:
        raise CheckpointError(f'The {_IMPL} checkpoint lacks the operation {next(iter(+left))}.')


def _operation(kind: Any, settings: Mapping[str, Any], outputs: tuple[int, ...] = (0,)) -> str:
    numbers = {k: f'{v:.6g}' if isinstance(v, float) else v for k, v in _settings(settings).items()}
    return f'{kind} {json.dumps(numbers, sort_keys=True)} of {outputs}'


def _operations(stacks: list[Stack], dim_head: int) -> Iterator[str]:
    for stack in stacks:
        if stack.kind == 'C':
            yield from [_operation('math.reduce_mean', dict(axis=[1, 2], keepdims=True))] * stack.depth
        for heads in stack.heads:
            width = heads * dim_head
            yield _operation('split', dict(num_or_size_splits=[width] * 3, axis=-1))
            for part in range(3):
                yield _operation('Reshape', dict(target_shape=[-1, heads, dim_head]), (part,))
            yield _operation('compat.v1.transpose', dict(perm=[0, 2, 3, 1]))
            yield from [_operation('compat.v1.transpose', dict(perm=[0, 2, 1, 3]))] * 3
            yield from [_operation('linalg.matmul', {}, (0, 0))] * 2
            yield _operation('math.multiply', dict(y=1 / math.sqrt(dim_head)))
            yield _operation('reshape', dict(shape=[-1, *stack.grid, width]))
