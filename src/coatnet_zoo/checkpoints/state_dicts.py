"""Finding the state dict in the content of a checkpoint file, and refusing tensors that are not plain."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import CheckpointError, shown

_STATE_DICT_KEYS = ('state_dict', 'model_state_dict', 'model', 'net', 'network', 'weights')
_EMA_KEYS = ('state_dict_ema', 'model_ema', 'ema_state_dict', 'model_ema_state_dict', 'ema', 'ema_model')
_PREFIXES = re.compile(r'^(?:module\.|model\.|_orig_mod\.|net\.)+')
# The largest depth of nested wrappers, e.g. {'ema': {'state_dict': ...}}.
_MAX_DEPTH = 8
# How many times larger than their memory all tensors together may be. `expand` repeats values without copying.
_MAX_GROWTH = 16


def find_state_dict(content: Any, ema: bool | None = False, name: str = 'The checkpoint') -> dict[str, torch.Tensor]:
    """Find the state dict in the content of a checkpoint file, and strip wrapper prefixes from its names.

    Args:
        content: A state dict, or a dictionary that has a state dict under one of the usual keys.
        ema: Take the state dict under one of the usual keys of a moving average; None: if there is such a key.
        name: Name of the checkpoint in errors.

    Raises:
        CheckpointError: If there is no state dict.
    """
    if ema is None:
        ema = isinstance(content, Mapping) and _wrapped(content, _EMA_KEYS) is not None
    return _strip(_unwrap(content, ema, name), name)


def _unwrap(content: Any, ema: bool, name: str) -> Mapping[Any, Any]:
    for _ in range(_MAX_DEPTH):
        if not isinstance(content, Mapping):
            raise CheckpointError(f'{name} holds a {type(content).__name__}, not a state dict.')
        found = _wrapped(content, _EMA_KEYS if ema else _STATE_DICT_KEYS)
        if found is None:
            break
        content, ema = found, False
    else:
        raise CheckpointError(f'{name} has dictionaries inside of dictionaries, {_MAX_DEPTH} deep and deeper.')
    if ema:
        raise CheckpointError(f'{name} has no moving average under {", ".join(_EMA_KEYS)}; leave out the EMA option.')
    if not any(isinstance(v, torch.Tensor) for v in content.values()):
        raise CheckpointError(
            f'{name} has no state dict under {", ".join(_STATE_DICT_KEYS)}; its keys are '
            f'{", ".join(map(shown, list(content)[:8])) or "none"}.'
        )
    return content


def _wrapped(content: Mapping[Any, Any], keys: tuple[str, ...]) -> Mapping[Any, Any] | None:
    return next((content[k] for k in keys if isinstance(content.get(k), Mapping)), None)


def _strip(content: Mapping[Any, Any], name: str) -> dict[str, torch.Tensor]:
    state_dict: dict[str, torch.Tensor] = {}
    for key, value in content.items():
        # AveragedModel stores a counter of its updates next to the weights.
        if key == 'n_averaged' or not isinstance(key, str) or not isinstance(value, torch.Tensor):
            continue
        stripped = _PREFIXES.sub('', key)
        if stripped in state_dict:
            raise CheckpointError(f'{name} has {shown(stripped)} more than once, under different prefixes.')
        state_dict[stripped] = value
    return state_dict


def check_dense(tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """Refuse nested, sparse and quantised tensors.

    Args:
        tensors: Tensors by name.
        name: Name of the checkpoint in the error.

    Raises:
        CheckpointError: If a tensor is refused. The message names the tensor.
    """
    for key, tensor in tensors.items():
        kinds = dict(nested=tensor.is_nested, sparse=tensor.layout != torch.strided, quantised=tensor.is_quantized)
        _refuse(key, next((kind for kind, is_so in kinds.items() if is_so), None), name)


def check_plain(tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """Refuse tensors from a file that are not plain numbers in memory, or that are far larger than their memory.

    Args:
        tensors: Tensors by name.
        name: Name of the checkpoint in the error.

    Raises:
        CheckpointError: If a tensor is refused. The message names the tensor.
    """
    check_dense(tensors, name)
    memory: dict[int, int] = {}
    for key, tensor in tensors.items():
        kind = None
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            kind = type(tensor).__name__
        elif tensor.device.type != 'cpu':
            kind = tensor.device.type
        elif tensor.dtype.is_complex or tensor.dtype == torch.bool or _is_float8(tensor):
            kind = str(tensor.dtype)
        _refuse(key, kind, name)
        storage = tensor.untyped_storage()
        memory[storage.data_ptr()] = storage.nbytes()
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > _MAX_GROWTH * sum(memory.values()):
        raise CheckpointError(f'{name} has tensors of {size} bytes in {sum(memory.values())} bytes of memory.')


def _is_float8(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.itemsize == 1


def _refuse(key: str, kind: str | None, name: str) -> None:
    if kind is not None:
        raise CheckpointError(
            f'{name} has {shown(key)} as a {shown(kind)} tensor; save plain tensors of real numbers instead.'
        )
