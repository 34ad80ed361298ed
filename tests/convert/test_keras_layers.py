"""Every setting of every kind of layer of a `.h5` file, changed in turn: refused, unless it changes no output."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoint_bytes
import pytest
from paths import DATA

from coatnet_zoo import CheckpointError
from coatnet_zoo.convert import Checkpoint, read_checkpoint
from coatnet_zoo.convert.adapters import keras_cv
from coatnet_zoo.convert.adapters.keras_h5 import describe

h5py = pytest.importorskip('h5py')

WHOLE, WEIGHTS = DATA / 'keras_cv_small.h5', DATA / 'keras_cv_small_weights_only.h5'
# What the output of a trained network does not depend on, and what the shapes of its weights decide.
NEUTRAL = {'trainable', 'momentum', 'name', 'conjugate', 'sparse', 'ragged', 'filters', 'kernel_size', 'units', 'dtype'}
NEUTRAL_ENDINGS = ('_initializer', '_regularizer', '_constraint')
# Operations that cut, reorder and multiply; only that they are such operations is checked.
UNCOMPARED = ('split', 'Reshape', 'reshape', 'compat.v1.transpose', 'linalg.matmul')
TENSORS = read_checkpoint(WHOLE).tensors


def model_config() -> dict[str, Any]:
    with h5py.File(WHOLE) as file:
        return json.loads(file.attrs['model_config'])


CONFIG = model_config()
LAYERS = CONFIG['config']['layers']


def others(value: Any) -> list[Any]:
    """Values of the same kind, and of other kinds."""
    changed: list[Any] = {
        bool: [not value],
        int: [value + 1 if type(value) is int else 0, 0],
        float: [value * 10 if type(value) is float else 0, 0.0],
        str: ['relu', 'swish', 'causal', 'channels_first', 'float64', 'gelu_app', ''],
        list: [[3, 3], [], [2]],
        dict: [{}],
    }.get(type(value), [1])
    return [v for v in [*changed, None, {'a': [1]}, 'x' * 5000] if v != value]


def settings_of(layer: dict[str, Any], place: str) -> dict[str, Any]:
    return layer['config'] if place == 'config' else layer['inbound_nodes'][0][3]


def kinds() -> dict[str, tuple[int, str, str]]:
    """One layer of every class and operation for every setting: the layer's index, where the setting is, its name."""
    found = {}
    for i, layer in enumerate(LAYERS):
        nodes = layer['inbound_nodes']
        if layer['config'].get('function', layer['class_name']) in UNCOMPARED:
            continue
        for place in ('config', 'arguments')[: 1 + bool(nodes and isinstance(nodes[0][0], str))]:
            for key in settings_of(layer, place):
                kind = f'{layer["class_name"]} {layer["config"].get("function", "")} {place} {key}'
                found.setdefault(kind, (i, place, key))
    return found


KINDS = kinds()


def changed(index: int, change: Callable[[dict], object]) -> dict[str, Any]:
    config = json.loads(json.dumps(CONFIG))
    change(config['config']['layers'][index])
    return config


def refusal(config: dict[str, Any]) -> str | None:
    """The one-line error that refuses the weights with another description, or None."""
    try:
        layers = describe(json.dumps(config))
    except Exception as e:  # read_h5 turns every exception into one of our own
        return f'no description: {e}'
    try:
        keras_cv.infer_structure(Checkpoint(TENSORS, layers))
    except CheckpointError as e:
        assert '\n' not in str(e) and len(str(e)) < 700
        return str(e)


def test_the_unchanged_description_is_read() -> None:
    assert refusal(CONFIG) is None


@pytest.mark.parametrize('case', KINDS)
def test_every_setting_of_every_kind_of_layer(case: str) -> None:
    index, place, key = KINDS[case]
    value, name = settings_of(LAYERS[index], place)[key], LAYERS[index]['config']['name']
    is_neutral = key in NEUTRAL or key.endswith(NEUTRAL_ENDINGS)
    if place == 'config' and key == 'name':
        return
    for other in others(value):
        error = refusal(changed(index, lambda layer, other=other: settings_of(layer, place).update({key: other})))
        if is_neutral:
            assert error is None, (other, error)
        else:
            assert error is not None, f'{key}={other!r} in {name} was read'
            assert name in error or error.startswith('no description'), error
    without = changed(index, lambda layer: settings_of(layer, place).pop(key))
    is_optional = key in ('groups', 'num_heads') or (key == 'keepdims' and place == 'config')
    assert (refusal(without) is not None) != (is_neutral or is_optional), key


def more(layer: dict, **settings: Any) -> None:
    layer['config'].update(settings)


# Contradictions, and settings that the fixture does not have.
WIRED: dict[str, tuple[str, Callable[[dict], object]]] = {
    'an unknown setting': ('stem_1_conv', lambda x: more(x, clipped=True)),
    'a name of somebody else': ('stem_1_gelu', lambda x: (x.update(name='stem_1_conv'), more(x, name='stem_1_conv'))),
    'another class': ('avg_pool', lambda x: x.update(class_name='GlobalMaxPooling2D')),
    'another operation': ('tf.split', lambda x: more(x, function='concat')),
    'a name that is a list': ('stem_1_gelu', lambda x: (x.update(name=[]), more(x, name=[]))),
    'no config': ('stem_1_gelu', lambda x: x.pop('config')),
    'inputs of Keras 3': ('stem_1_gelu', lambda x: x.update(inbound_nodes=[{'args': [], 'kwargs': {}}])),
    'a smaller image': ('input_1', lambda x: more(x, batch_input_shape=[None, 32, 32, 3])),
    'an image of any size': ('input_1', lambda x: more(x, batch_input_shape=[None, None, None, 3])),
    'an image of 10^9 pixels': ('input_1', lambda x: more(x, batch_input_shape=[None, 10**9, 10**9, 3])),
}
ORDINARY: dict[str, tuple[str, Callable[[dict], object]]] = {
    'softmax at the end': ('predictions', lambda x: more(x, activation='softmax')),
    'mixed precision': ('stem_1_conv', lambda x: more(x, dtype={'config': {'name': 'mixed_float16'}})),
    'batches of 8': ('input_1', lambda x: more(x, batch_input_shape=[8, 64, 64, 3])),
    'heads that are counted': ('stack_3_block_1_mhsa_pos_emb', lambda x: more(x, num_heads=1)),
}


@pytest.mark.parametrize('case', [*WIRED, *ORDINARY])
def test_contradictions_are_refused_and_ordinary_descriptions_read(case: str) -> None:
    name, change = (WIRED | ORDINARY)[case]
    index = next(i for i, layer in enumerate(LAYERS) if layer['name'] == name)
    assert (refusal(changed(index, change)) is None) == (case in ORDINARY)


def test_dropout_is_read() -> None:
    """Stochastic depth, and dropout before the classifier."""
    config = json.loads(json.dumps(CONFIG))
    layers = config['config']['layers']
    for before, after, name in (
        ('stack_1_block_1_MB_pw_conv', 'stack_1_block_1_output', 'stack_1_block_1_drop'),
        ('avg_pool', 'predictions', 'head_drop'),
    ):
        layer = next(x for x in layers if x['name'] == after)
        next(n for n in layer['inbound_nodes'][0] if n[0] == before)[0] = name
        drop = dict(name=name, trainable=True, dtype='float32', rate=0.3, noise_shape=[None, 1, 1, 1], seed=None)
        layers.append(dict(class_name='Dropout', config=drop, name=name, inbound_nodes=[[[before, 0, 0, {}]]]))
    assert refusal(config) is None


@pytest.mark.parametrize('description', [3, b'\xff\xfe', '[]', '{"config": {"layers": [1]}}', '[' * 50_000, ''])
def test_descriptions_that_are_none(description: Any, tmp_path: Path) -> None:
    shutil.copy(WHOLE, tmp_path / 'a.h5')
    with h5py.File(tmp_path / 'a.h5', 'r+') as f:
        f.attrs['model_config'] = description
    checkpoint_bytes.refusal(tmp_path / 'a.h5')


RENAMED = {
    'stem_1_gelu': 'stem_1_swish',
    'stack_2_block_2_MB_dw_gelu': 'stack_2_block_2_MB_dw_hard_swish',
    'stack_3_block_1_ffn_gelu': 'stack_3_block_1_ffn_gelu_app',
}


@pytest.mark.parametrize('place', RENAMED)
def test_names_of_other_activations_in_files_of_weights_only(place: str, tmp_path: Path) -> None:
    shutil.copy(WEIGHTS, tmp_path / 'a.h5')
    with h5py.File(tmp_path / 'a.h5', 'r+') as f:
        f.move(place, RENAMED[place])
    assert RENAMED[place] in checkpoint_bytes.refusal(tmp_path / 'a.h5')
