"""Refusing tensors from a checkpoint that are not plain numbers in memory."""

from collections.abc import Mapping

import torch

from ..errors import CheckpointError, shown

# How many times larger than their memory all tensors together may be. `expand` repeats values without copying.
_MAX_GROWTH = 16


def check_dense(tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """Refuse nested, sparse and quantised tensors.

    Args:
        tensors: Tensors by name.
        name: Name of the checkpoint in the error.

    Raises:
        CheckpointError: If a tensor is refused. The message names the tensor.
    """
    for key, tensor in tensors.items():
        _refuse(key, _not_dense(tensor), name)


def check_plain(tensors: Mapping[str, torch.Tensor], name: str, beside: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors from a file that are not plain numbers in memory, or that are far larger than their memory.

    Args:
        tensors: Tensors by name.
        name: Name of the checkpoint in the error.
        beside: Tensors that only have to fit their memory.

    Raises:
        CheckpointError: If a tensor is refused. The message names the tensor.
    """
    for key, tensor in tensors.items():
        _refuse(key, not_plain(tensor), name)
    memory: dict[int, int] = {}
    size = 0
    for tensor in (*tensors.values(), *beside.values()):
        storage = tensor.untyped_storage()
        memory[storage.data_ptr()] = storage.nbytes()
        size += tensor.nbytes
    if size > _MAX_GROWTH * sum(memory.values()):
        raise CheckpointError(f'{name} has tensors of {size} bytes in {sum(memory.values())} bytes of memory.')


def not_plain(tensor: torch.Tensor) -> str | None:
    """The word for a tensor that is not plain numbers in memory; None for a plain tensor."""
    if kind := _not_dense(tensor):
        return kind
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return type(tensor).__name__
    if tensor.device.type != 'cpu':
        return tensor.device.type
    if tensor.dtype.is_complex or tensor.dtype == torch.bool or (tensor.is_floating_point() and tensor.itemsize == 1):
        return str(tensor.dtype)
    return None


def _not_dense(tensor: torch.Tensor) -> str | None:
    kinds = dict(nested=tensor.is_nested, sparse=tensor.layout != torch.strided, quantised=tensor.is_quantized)
    return next((kind for kind, is_so in kinds.items() if is_so), None)


def _refuse(key: str, kind: str | None, name: str) -> None:
    if kind is not None:
        raise CheckpointError(
            f'{name} has {shown(key)} as a {shown(kind)} tensor; save plain tensors of real numbers instead.'
        )
