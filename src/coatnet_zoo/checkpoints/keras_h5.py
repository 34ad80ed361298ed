"""Reading the `.h5` files that Keras writes, whole models and weights only, without executing anything in them.

TensorFlow is not needed. The file of a whole model also describes every layer of the model.
"""

import json
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, first_line
from .checkpoint import Checkpoint

# The group of the weights in the file of a whole model, beside the group of its optimiser.
_WEIGHTS = 'model_weights/'


def require_h5py(name: Any) -> Any:
    """The module h5py, which is an optional dependency.

    Args:
        name: The file or address that is to be read, for the error.

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
        float32 tensors by `layer/weight`, e.g. `stem_1_conv/kernel`, in Keras' layouts, without the state of the
        optimiser; and the class and settings of every layer, if the file has a whole model.

    Raises:
        CheckpointError: If h5py is not installed, or if the file is damaged or refers to other files.
    """
    h5py = require_h5py(path)
    try:
        with h5py.File(path, 'r') as file:
            layers = _layers(file.attrs.get('model_config'))
            found: dict[str, Any] = {}
            # Visits no soft or external links, which may lead to other files.
            file.visititems(lambda name, item: found.update({name: item}))
            prefix = _WEIGHTS if any(name.startswith(_WEIGHTS) for name in found) else ''
            tensors: dict[str, torch.Tensor] = {}
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
        raise CheckpointError(
            f'{path} is not a whole HDF5 file of Keras ({first_line(e)}); fetch or save it again.'
        ) from e
    if not tensors:
        raise CheckpointError(f'{path} holds no weights; save a model that has some.')
    return Checkpoint(tensors, layers)


def _name(path_in_file: str) -> str:
    """`a/a/kernel:0` -> `a/kernel`."""
    parts = path_in_file.split('/')
    weight = parts[-1].partition(':')[0]
    # The weight of this layer has had several names; Keras finds the weight by the name of the layer.
    return f'{parts[0]}/positional_embedding' if parts[0].endswith('_pos_emb') else f'{parts[0]}/{weight}'


def _tensor(name: str, dataset: Any, path: Path) -> torch.Tensor:
    if dataset.external or dataset.is_virtual:
        raise CheckpointError(f'{path} keeps {name} in another file, which is not followed; save the model again.')
    # A header that claims more than the file holds would otherwise have all of it allocated.
    if dataset.id.get_storage_size() < dataset.nbytes:
        raise CheckpointError(f'{path} lacks a part of {name}, or has it compressed; fetch or save the file again.')
    return torch.from_numpy(dataset.astype('float32')[()].reshape(dataset.shape))


def _layers(model_config: str | bytes | None) -> dict[str, dict[str, Any]]:
    """Class and settings of every layer by name, from the description in the file of a whole model."""
    layers = json.loads(model_config)['config']['layers'] if model_config else []
    return {layer['config']['name']: {'class_name': layer['class_name'], **layer['config']} for layer in layers}
