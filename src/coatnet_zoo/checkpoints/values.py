"""Refusing weights with values that no model has, so that diverged or damaged weights do not pass for a model."""

from collections.abc import Mapping

import torch

from ..errors import CheckpointError


def check_values(tensors: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], name: str) -> None:
    """Refuse tensors that are not finite, or that are integers where a model has floating-point numbers.

    torch would take integers for weights without a word.

    Args:
        tensors: Tensors by name.
        own: The tensors of the model that `tensors` are for.
        name: What to call the weights in errors.

    Raises:
        CheckpointError: With the name of the tensor.
    """
    for key in tensors.keys() & own.keys():
        if tensors[key].is_floating_point() != own[key].is_floating_point():
            raise CheckpointError(f'{name} has {key} as {tensors[key].dtype} instead of {own[key].dtype}.')
    check_finite(tensors, name)


def check_finite(tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """Look at every floating-point value, at some GB/s.

    Args:
        tensors: Tensors by name.
        name: What to call the weights in the error.

    Raises:
        CheckpointError: If a value is NaN or infinite, with the name of the tensor.
    """
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        # Extrema carry NaN along and need no second tensor; torch has no extrema of 8-bit floats.
        extrema = (tensor if tensor.element_size() > 1 else tensor.float()).aminmax()
        if not all(torch.isfinite(e) for e in extrema):
            raise CheckpointError(
                f'{name} has NaN or infinite values in {key}, as after a training that diverged; use an earlier one.'
            )
