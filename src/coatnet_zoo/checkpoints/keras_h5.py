"""Reading the `.h5` files that Keras writes, whole models and weights only, without executing anything in them.

TensorFlow is not needed. A whole model's file also describes its layers; from that description come the input size
and the refusal of networks whose difference would not show in any tensor.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError

SUFFIXES = ('.h5', '.hdf5')
# The name under which `read_h5` returns the input shape that a whole model's file has.
INPUT_SHAPE = 'input_shape'
# The group of a whole model's weights, beside those of its optimiser.
_WEIGHTS = 'model_weights/'


def require_h5py(name: Any) -> Any:
    """The module h5py, which is an optional dependency.

    Args:
        name: What is to be read, for the error.

    Raises:
        CheckpointError: If it is not installed.
    """
    try:
        import h5py
    except ImportError as e:
        raise CheckpointError(
            f'{name} is an HDF5 file, which needs h5py to be read: pip install coatnet-zoo[keras].'
        ) from e
    return h5py


def read_h5(path: Path) -> dict[str, torch.Tensor]:
    """Read a `.h5` file of Keras, written by `model.save` or by `model.save_weights`.

    Args:
        path: The file.

    Returns:
        float32 tensors by `layer/weight`, e.g. `stem_1_conv/kernel`, in Keras' layouts; with `INPUT_SHAPE`, integers in
        the order of the image's axes, where the file has it. Optimiser state is left out.

    Raises:
        CheckpointError: If h5py is not installed, if the file is damaged or refers to other files, or if the model that
            it describes has layers that no CoAtNet of this package has.
    """
    h5py = require_h5py(path)
    try:
        with h5py.File(path, 'r') as file:
            layers = _layers(file.attrs.get('model_config'))
            found: dict[str, Any] = {}
            # Visits no soft or external links, which may lead to other files.
            file.visititems(lambda name, item: found.update({name: item}))
            prefix = _WEIGHTS if any(name.startswith(_WEIGHTS) for name in found) else ''
            tensors = {}
            for name, item in found.items():
                if not name.startswith(prefix) or not isinstance(item, h5py.Dataset) or item.dtype.kind != 'f':
                    continue
                short = _name(name.removeprefix(prefix))
                if short in tensors:
                    raise CheckpointError(f'{path} has two weights of the name {short}.')
                tensors[short] = _tensor(name, item, path)
    except CheckpointError:
        raise
    except Exception as e:  # h5py raises most kinds of exceptions on damaged files
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise CheckpointError(f'{path} is not a whole HDF5 file of Keras ({reason}); fetch or save it again.') from e
    if not tensors:
        raise CheckpointError(f'{path} holds no weights; save a model that has some.')
    _check_layers(layers, path)
    shape = _input_shape(layers)
    return {**tensors, INPUT_SHAPE: torch.tensor(shape)} if shape else tensors


def _name(path_in_file: str) -> str:
    """`a/a/kernel:0` -> `a/kernel`."""
    parts = path_in_file.split('/')
    weight = parts[-1].partition(':')[0]
    # The one weight of this layer has had several names; Keras finds it by its layer's.
    return f'{parts[0]}/positional_embedding' if parts[0].endswith('_pos_emb') else f'{parts[0]}/{weight}'


def _tensor(name: str, dataset: Any, path: Path) -> torch.Tensor:
    if dataset.external or dataset.is_virtual:
        raise CheckpointError(f'{path} keeps {name} in another file, which is not followed; save the model again.')
    # Also keeps a lying header from allocating what the file cannot hold.
    if dataset.id.get_storage_size() < dataset.nbytes:
        raise CheckpointError(f'{path} lacks a part of {name}, or has it compressed; fetch or save the file again.')
    return torch.from_numpy(dataset.astype('float32')[()].reshape(dataset.shape))


def _layers(model_config: str | bytes | None) -> dict[str, dict[str, Any]]:
    """Class and settings of every layer by name, from the description in a whole model's file."""
    layers = json.loads(model_config)['config']['layers'] if model_config else []
    return {layer['config']['name']: {'class_name': layer['class_name'], **layer['config']} for layer in layers}


def _input_shape(layers: Mapping[str, Mapping[str, Any]]) -> list[int] | None:
    for layer in layers.values():
        shape = layer.get('batch_input_shape') or layer.get('batch_shape')
        if layer['class_name'] == 'InputLayer' and shape and None not in shape[1:]:
            return list(shape[1:])
    return None


def _check_layers(layers: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Refuse strides and activations of keras_cv_attention_models' CoAtNet that are options there and not here."""
    if 'stack_1_block_1_preact_bn' not in layers and 'stack_1_block_1_preact_ln' not in layers:
        return
    stacks = sum(bool(re.fullmatch(r'stack_\d+_block_1_shortcut_conv', name)) for name in layers)
    for stack in range(1, stacks + 1):
        prefix = f'stack_{stack}_block_1_'
        expected = 1 if (stacks, stack) == (5, 4) else 2
        pool, expand = layers.get(prefix + 'shortcut_pool'), layers.get(prefix + 'expand_conv')
        if (pool['strides'] if pool else [1, 1]) != [expected] * 2 or (expand and expand['strides'] != [1, 1]):
            raise CheckpointError(
                f'{path} has a stride in stack {stack} that keras_cv_attention_models does not use by default '
                '(strides or use_dw_strides were changed); only its default is supported.'
            )
    for name, layer in layers.items():
        activation = layer.get('activation') if layer['class_name'] == 'Activation' else 'gelu'
        if activation not in ('gelu', 'sigmoid'):
            raise CheckpointError(f'{path} has the activation {activation!r} in {name}; only gelu is supported.')
