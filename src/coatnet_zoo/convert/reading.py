"""Reading a checkpoint file without executing anything in it."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..errors import CheckpointError, first_line, shown
from .adapter import Translation, find_reader, translate
from .checkpoint import Checkpoint
from .files import require_regular
from .pickles import Unread
from .plain import check_plain
from .state_dicts import find_network
from .torch_legacy import read_legacy
from .torch_zip import read_zip


def read_checkpoint(
    path: str | os.PathLike, ema: bool | None = False, key: str | None = None, prefix: str | None = None
) -> Checkpoint:
    """Read a `.pth`, `.pt`, `.bin` (torch.save) or `.safetensors` file, or a file in the format of a third-party code.

    Pickled code is never executed: objects other than tensors are read as plain data, see `pickles`.

    Args:
        path: The file.
        ema: Take the exponential moving average of the weights instead of the weights; None: if the file has one.
        key: The key of the state dict in the file. Default: see `find_network`.
        prefix: The prefix of the names of the network. Default: see `find_network`.

    Returns:
        The checkpoint, without wrapper prefixes such as `module.` in the names of its tensors. A reader of a
        third-party code, such as `keras_h5.read_h5`, also returns the layers. A file of timm's train.py also has its arguments.

    Raises:
        CheckpointError: If the file is missing, is not a regular file, is damaged, is a pickled model, has no state
            dict or several of them, or has tensors that are not plain numbers in memory.
    """
    path = require_regular(path)
    name, layers = shown(path, 500), {}
    if reader := find_reader(path):
        checkpoint = reader.read(path)
        content, layers = checkpoint.tensors, checkpoint.layers
    elif path.suffix == '.safetensors':
        content = _read_safetensors(path)
    else:
        content = _read_torch(path, name)
    found = find_network(content, ema, name, key, prefix)
    check_plain(found.tensors, name, found.beside)
    return Checkpoint(found.tensors, layers, found.beside, _record(content))


def _record(content: Any) -> Mapping[str, Any]:
    """The arguments of timm's train.py, which saves them as an `argparse.Namespace`, and the model's name as `arch`."""
    if not isinstance(content, Mapping) or not isinstance(args := content.get('args'), Unread):
        return {}
    is_train_py = isinstance(content.get('arch'), str) and content['arch'] == args.attributes.get('model')
    return args.attributes if is_train_py else {}


def read_translated(path: str | os.PathLike) -> Translation:
    """Read the checkpoint of a third-party code, and translate it into the names and layouts of this package.

    Raises:
        CheckpointError: See `read_checkpoint` and `translate`; and if no third-party code wrote the file.
    """
    translation = translate(read_checkpoint(path))
    if translation is None:
        raise CheckpointError(f'{shown(path)} is not a checkpoint of a CoAtNet.')
    return translation


def not_whole(path: str | os.PathLike, error: Exception) -> CheckpointError:
    """The error for a damaged safetensors file.

    Args:
        path: The file.
        error: The error of safetensors.
    """
    reason = shown(first_line(error))
    return CheckpointError(f'{shown(path, 500)} is not a whole safetensors file ({reason}); fetch or save it again.')


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except Exception as e:  # safetensors also raises its own exceptions, and KeyError for types that torch lacks
        raise not_whole(path, e) from e


def _read_torch(path: Path, name: str) -> Any:
    try:
        with path.open('rb') as f:
            is_zip = f.read(4) == b'PK\x03\x04'
        return read_zip(path) if is_zip else read_legacy(path)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as e:
        raise CheckpointError(f'{name} is not a checkpoint written by torch.save ({e}).') from e
    except Exception as e:  # a damaged pickle can raise any kind of exception
        raise CheckpointError(
            f'{name} is not a whole torch checkpoint ({shown(first_line(e))}); fetch or save it again.'
        ) from e
