"""Refusing weights of values that no model has: what diverged, or was damaged, must not pass for one."""

from collections.abc import Mapping

import torch

from ..errors import CheckpointError


def check_values(state_dict: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], name: str) -> None:
    """Look whether tensors are floating-point numbers where a model's are, and finite.

    torch would take integers for weights in silence.

    Args:
        state_dict: Tensors by name.
        own: Those of the model that they are for.
        name: What to call the weights in errors.

    Raises:
        CheckpointError: If one is not; the message has the tensor's name.
    """
    for key in state_dict.keys() & own.keys():
        if state_dict[key].is_floating_point() != own[key].is_floating_point():
            raise CheckpointError(f'{name} has {key} as {state_dict[key].dtype} instead of {own[key].dtype}.')
    check_finite(state_dict, name)


def check_finite(state_dict: Mapping[str, torch.Tensor], name: str) -> None:
    """Look at every floating-point value, at some GB/s.

    Args:
        state_dict: Tensors by name.
        name: What to call the weights in the error.

    Raises:
        CheckpointError: If one is NaN or infinite; the message has the tensor's name.
    """
    for key, tensor in state_dict.items():
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        # Extrema carry NaN along and need no second tensor; torch has none of them for 8-bit floats.
        extrema = (tensor if tensor.element_size() > 1 else tensor.float()).aminmax()
        if not all(torch.isfinite(e) for e in extrema):
            raise CheckpointError(
                f'{name} has NaN or infinite values in {key}, as after a training that diverged; use an earlier one.'
            )
