"""Reading the `.h5` files that Keras writes, whole models and weights only, without TensorFlow."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from ...errors import CheckpointError, shown
from ...registry import WEIGHTS
from ..adapter import Checkpoint
from ..reading import corrupt


def read_h5(path: Path) -> Checkpoint:
    """Read a `.h5` file of Keras, written by `model.save` or by `model.save_weights`.

    Args:
        path: The file.

    Returns:
        The tensors by `layer/weight`, e.g. `stem_1_conv/kernel`, in Keras' layouts, without the state of the optimiser;
        and the layers by name. For a file of a whole model, each layer has its `class_name` and its `settings`. For a
        file of weights only, each layer has only its name.

    Raises:
        CheckpointError: If h5py is not installed, or if the file is damaged or refers to other files.
    """
    try:
        import h5py
    except ImportError as e:
        raise CheckpointError(
            f'{path} is an HDF5 file, which needs h5py to be read: pip install coatnet-zoo[keras].'
        ) from e
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
                        raise ValueError(f'it has two weights of the name {key}')
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
                layers = {} if _is_published(path) else describe(description)
    except Exception as e:  # h5py raises most kinds of exceptions on damaged files
        raise corrupt(path, 'HDF5 file of Keras', e) from e
    if not tensors:
        raise CheckpointError(f'{path} holds no weights; save a model that has some.')
    return Checkpoint(tensors, layers)


def _is_published(path: Path) -> bool:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() in {w.md5 for w in WEIGHTS.values()}


def describe(model_config: str | bytes) -> dict[str, dict[str, Any]]:
    """Every layer by name, as `read_h5` returns the layers, from the description in the file of a whole model.

    Raises:
        Exception: Any exception, if the text is not such a description.
    """
    layers: dict[str, dict[str, Any]] = {}
    for layer in json.loads(model_config)['config']['layers']:
        name, nodes = layer['config']['name'], layer['inbound_nodes']
        if not isinstance(name, str) or not isinstance(layer['class_name'], str) or name in layers:
            raise ValueError(f'the layer {shown(name)} has no class, no name, or is there twice')
        # An operation has one input, and its arguments.
        arguments = nodes[0][3] if nodes and isinstance(nodes[0][0], str) else {}
        layers[name] = dict(class_name=layer['class_name'], settings={**layer['config'], **arguments})
    return layers
