"""Reading the `.h5` files that Keras writes, whole models and weights only, without executing anything in them.

TensorFlow is not needed. The file of a whole model also describes every layer of the model.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from ...errors import CheckpointError, first_line, shown
from ...registry import WEIGHTS
from ..checkpoint import Checkpoint

# The group of the weights in the file of a whole model. Another group holds the state of the optimiser.
_WEIGHTS = 'model_weights/'


def require_h5py(name: Any) -> Any:
    """The module h5py, which is an optional dependency.

    Args:
        name: The file or address to read, for the error message.

    Raises:
        CheckpointError: If h5py is not installed.
    """
    try:
        import h5py
    except ImportError as e:
        raise CheckpointError(
            f'{name} is an HDF5 file, which needs h5py to be read: pip install coatnet-zoo[keras].'
        ) from e
    return h5py


def read_h5(path: Path) -> Checkpoint:
    """Read a `.h5` file of Keras, written by `model.save` or by `model.save_weights`.

    Args:
        path: The file.

    Returns:
        The tensors by `layer/weight`, e.g. `stem_1_conv/kernel`, in Keras' layouts, without the state of the optimiser;
        and the layers by name. For a file of a whole model, each layer has its `class_name`, its `config`, the names of
        the layers that are its `inputs`, the number of each output it takes as `outputs`, and the `arguments` of its
        call. For a file of weights only, each layer has only its name.

    Raises:
        CheckpointError: If h5py is not installed, or if the file is damaged or refers to other files.
    """
    h5py = require_h5py(path)
    try:
        with h5py.File(path, 'r') as file:
            found: dict[str, Any] = {}
            # `visititems` follows no soft or external links, which may lead to other files.
            file.visititems(lambda name, item: found.update({name: item}))
            prefix = _WEIGHTS if any(name.startswith(_WEIGHTS) for name in found) else ''
            tensors: dict[str, torch.Tensor] = {}
            left = path.stat().st_size
            for name, item in found.items():
                if not name.startswith(prefix) or not isinstance(item, h5py.Dataset) or item.dtype.kind != 'f':
                    continue
                short = _name(name.removeprefix(prefix))
                if short in tensors:
                    raise CheckpointError(f'{path} has two weights of the name {shown(short)}.')
                left -= item.nbytes
                tensors[short] = _tensor(name, item, path, left)
            model_config = file.attrs.get('model_config')
            if model_config is None:
                layers = {name.removeprefix(prefix).split('/')[0]: {} for name in found}
            elif _is_published(path):
                layers = {}  # earlier versions of that code built the published networks from other operations
            else:
                layers = describe(model_config)
    except CheckpointError:
        raise
    except Exception as e:  # h5py raises most kinds of exceptions on damaged files
        raise CheckpointError(
            f'{path} is not a whole HDF5 file of Keras ({shown(first_line(e))}); fetch or save it again.'
        ) from e
    if not tensors:
        raise CheckpointError(f'{path} holds no weights; save a model that has some.')
    return Checkpoint(tensors, layers)


def _name(path_in_file: str) -> str:
    """`a/a/kernel:0` -> `a/kernel`."""
    parts = path_in_file.split('/')
    weight = parts[-1].partition(':')[0]
    # The weight of this layer has several names across versions; Keras finds the weight by the name of the layer.
    return f'{parts[0]}/positional_embedding' if parts[0].endswith('_pos_emb') else f'{parts[0]}/{weight}'


def _tensor(name: str, dataset: Any, path: Path, left: int) -> torch.Tensor:
    if dataset.external or dataset.is_virtual:
        raise CheckpointError(
            f'{path} keeps {shown(name)} in another file, which is not followed; save the model again.'
        )
    # Otherwise h5py would allocate as much memory as a damaged header claims.
    if left < 0 or dataset.id.get_storage_size() < dataset.nbytes:
        raise CheckpointError(
            f'{path} lacks a part of {shown(name)}, or has it compressed; fetch or save the file again.'
        )
    kind = f'f{dataset.dtype.itemsize}' if dataset.dtype.itemsize <= 8 else 'f8'
    return torch.from_numpy(dataset.astype(kind)[()].reshape(dataset.shape))


def _is_published(path: Path) -> bool:
    md5 = hashlib.md5(usedforsecurity=False)
    with path.open('rb') as file:
        while part := file.read(1 << 20):
            md5.update(part)
    return md5.hexdigest() in {weights.md5 for weights in WEIGHTS.values()}


def describe(model_config: str | bytes) -> dict[str, dict[str, Any]]:
    """Every layer by name, as `read_h5` returns the layers, from the description in the file of a whole model.

    Raises:
        Exception: Any exception, if the text is not such a description.
    """
    model = json.loads(model_config)['config']
    layers: dict[str, dict[str, Any]] = {}
    for layer in model['layers']:
        name, config, kind = layer['config']['name'], dict(layer['config']), layer['class_name']
        if not isinstance(name, str) or not isinstance(kind, str) or name in layers or layer['name'] != name:
            raise ValueError(f'the layer {shown(name)} has no class, two names, or is there twice')
        layers[name] = dict(class_name=kind, config=config, **_call(name, layer['inbound_nodes']))
    # The layers are in the order of computing. A network without classifier ends with its last block.
    if not layers or model['output_layers'] != [['predictions' if 'predictions' in layers else name, 0, 0]]:
        raise ValueError('its output is not that of its last layer')
    return layers


def _call(name: str, nodes: list[Any]) -> dict[str, Any]:
    """The inputs and arguments of the one call of a layer."""
    if len(nodes) > 1:
        raise ValueError(f'the layer {shown(name)} is called twice')
    sources: list[tuple[str, int]] = []
    arguments: dict[str, Any] = {}
    for node in nodes:
        # An operation has one input. Every other layer has a list of inputs.
        for source, call, output, given in [node] if isinstance(node[0], str) else node:
            sources.append((source, output))
            for key, value in given.items():
                if isinstance(value, list) and value and isinstance(value[0], str):
                    sources.append((value[0], value[2]))
                else:
                    arguments[key] = value
            if call != 0:
                raise ValueError(f'the layer {shown(name)} has an input from a second call')
    return dict(inputs=[s for s, _ in sources], outputs=tuple(o for _, o in sources), arguments=arguments)
