"""Reading a checkpoint file without executing anything in it."""

import argparse
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from ..errors import CheckpointError, first_line, shown
from .checkpoint import Checkpoint
from .codes import Translation, find_reader, translate
from .files import require_regular
from .state_dicts import check_plain, find_state_dict
from .torch_legacy import read_legacy
from .torch_zip import read_zip

# Training scripts save their arguments and numpy scalars with the weights. Loading these types runs no code.
_SAFE_GLOBALS = [
    argparse.Namespace,
    np._core.multiarray.scalar if hasattr(np, '_core') else np.core.multiarray.scalar,
    np.dtype,
    *{type(np.dtype(t)) for t in ('float64', 'float32', 'int64', 'int32', 'bool')},
]


def read_checkpoint(path: str | os.PathLike, ema: bool | None = False) -> Checkpoint:
    """Read a `.pth`, `.pt`, `.bin` (torch.save) or `.safetensors` file, or a file in the format of a foreign code.

    Pickled code is never executed: torch files are read with `weights_only`.

    Args:
        path: The file.
        ema: Take the exponential moving average of the weights instead of the weights; None: if the file has one.

    Returns:
        The checkpoint, without wrapper prefixes such as `module.` in the names of its tensors. A reader of a foreign
        code, such as `keras_h5.read_h5`, also returns the layers.

    Raises:
        CheckpointError: If the file is missing, is not a regular file, is damaged, holds pickled objects, has no state
            dict, or has tensors that are not plain numbers in memory.
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
    tensors = find_state_dict(content, ema, name=name)
    check_plain(tensors, name)
    return Checkpoint(tensors, layers)


def read_translated(path: str | os.PathLike) -> Translation:
    """Read the checkpoint of a foreign code, and translate the checkpoint into the names and layouts of this package.

    Raises:
        CheckpointError: See `read_checkpoint` and `translate`; and if no foreign code wrote the file.
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
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            return read_zip(path) if is_zip else read_legacy(path)
    except pickle.UnpicklingError as e:
        unsafe = re.search(r'GLOBAL ([\w.]+)', str(e))
        if unsafe is None:
            raise CheckpointError(f'{name} is not a checkpoint written by torch.save.') from e
        raise CheckpointError(
            f'{name} holds pickled objects ({shown(unsafe[1])}) that would have to be executed to be read, which is '
            'refused; save model.state_dict() instead of the model.'
        ) from e
    except Exception as e:  # a damaged pickle can raise any kind of exception
        raise CheckpointError(
            f'{name} is not a whole torch checkpoint ({shown(first_line(e))}); fetch or save it again.'
        ) from e
