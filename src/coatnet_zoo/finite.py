"""Refusing weights that have NaN or infinite values: what diverged, or was damaged, must not pass for a model."""

from collections.abc import Mapping

import torch

from .checkpoint import CheckpointError


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
