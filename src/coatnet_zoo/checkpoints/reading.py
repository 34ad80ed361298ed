"""Reading a checkpoint file without executing anything in it, and finding the state dict inside."""

import argparse
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from ..errors import CheckpointError, first_line
from .checkpoint import Checkpoint
from .codes import find_reader

_STATE_DICT_KEYS = ('state_dict', 'model_state_dict', 'model', 'net', 'network', 'weights')
_EMA_KEYS = ('state_dict_ema', 'model_ema', 'ema_state_dict', 'model_ema_state_dict', 'ema', 'ema_model')
_PREFIXES = re.compile(r'^(?:module\.|model\.|_orig_mod\.|net\.)+')
# Training scripts save their arguments and numpy scalars beside the weights; none of these runs code.
_SAFE_GLOBALS = [
    argparse.Namespace,
    np._core.multiarray.scalar if hasattr(np, '_core') else np.core.multiarray.scalar,
    np.dtype,
    *{type(np.dtype(t)) for t in ('float64', 'float32', 'int64', 'int32', 'bool')},
]


def read_checkpoint(path: str | os.PathLike, ema: bool = False) -> Checkpoint:
    """Read a `.pth`, `.pt`, `.bin` (torch.save) or `.safetensors` file, or a file that a foreign code has for itself.

    Pickled code is never executed: torch files are read with `weights_only`.

    Args:
        path: The file.
        ema: Take the exponential moving average of the weights instead of the weights.

    Returns:
        The state dict, without wrapper prefixes such as `module.`; or what the reader of the foreign code gives, such
        as `keras_h5.read_h5`.

    Raises:
        CheckpointError: If the file is missing, is damaged, holds pickled objects, or has no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f'There is no file {path}.')
    if reader := find_reader(path):
        checkpoint = reader.read(path)
        return Checkpoint(find_state_dict(checkpoint.tensors, ema, name=str(path)), checkpoint.layers)
    content = _read_safetensors(path) if path.suffix == '.safetensors' else _read_torch(path)
    return Checkpoint(find_state_dict(content, ema, name=str(path)))


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as e:
        raise CheckpointError(f'{path} is not a whole safetensors file ({e}); fetch or save it again.') from e


def _read_torch(path: Path) -> Any:
    with path.open('rb') as f:
        is_zip = f.read(4) == b'PK\x03\x04'
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            # Files from before torch 1.6 are no zip archives and cannot be mapped.
            return torch.load(path, map_location='cpu', weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as e:
        unsafe = re.search(r'GLOBAL ([\w.]+)', str(e))
        if unsafe is None:
            raise CheckpointError(f'{path} is not a checkpoint written by torch.save.') from e
        raise CheckpointError(
            f'{path} holds pickled objects ({unsafe[1]}) that would have to be executed to be read, which is '
            'refused; save model.state_dict() instead of the model.'
        ) from e
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError) as e:
        raise CheckpointError(
            f'{path} is not a whole torch checkpoint ({first_line(e)}); fetch or save it again.'
        ) from e


def find_state_dict(content: Any, ema: bool = False, name: str = 'The checkpoint') -> dict[str, torch.Tensor]:
    """Find the state dict in the content of a checkpoint file, and strip wrapper prefixes from its names.

    Args:
        content: A state dict, or a dictionary that has a state dict under one of the usual keys.
        ema: Take the state dict under one of the usual keys of a moving average.
        name: What to call the checkpoint in errors.

    Raises:
        CheckpointError: If there is no state dict.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f'{name} holds a {type(content).__name__}, not a state dict.')
    keys = _EMA_KEYS if ema else _STATE_DICT_KEYS
    found = next((content[k] for k in keys if isinstance(content.get(k), Mapping)), None)
    if found is not None:
        # Wrappers nest, e.g. {'ema': {'state_dict': ...}}.
        return find_state_dict(found, name=name)
    if ema:
        raise CheckpointError(f'{name} has no moving average under {", ".join(_EMA_KEYS)}; leave out the EMA option.')
    if not any(isinstance(v, torch.Tensor) for v in content.values()):
        raise CheckpointError(
            f'{name} has no state dict under {", ".join(_STATE_DICT_KEYS)}; its keys are '
            f'{", ".join(map(str, list(content)[:8])) or "none"}.'
        )
    state_dict: dict[str, torch.Tensor] = {}
    for key, value in content.items():
        # AveragedModel counts its updates beside the weights.
        if key == 'n_averaged' or not isinstance(key, str) or not isinstance(value, torch.Tensor):
            continue
        stripped = _PREFIXES.sub('', key)
        if stripped in state_dict:
            raise CheckpointError(f'{name} has {stripped} more than once, under different prefixes.')
        state_dict[stripped] = value
    return state_dict
