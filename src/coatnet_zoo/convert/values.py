"""Refusing weights with values that no model has: diverged or damaged weights are not loaded."""

from collections.abc import Mapping

import torch

from ..errors import CheckpointError, shown


def check_values(
    tensors: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
    name: str,
    names: Mapping[str, str] | None = None,
) -> None:
    """Refuse values that no model has in the precision of the model.

    The refused values are numbers that are not finite in the weights or in the precision of the model, variances below
    zero, and integers where the model has floating-point numbers. torch would accept integers as weights without an
    error. `load_state_dict` handles tensors that the model does not have. Tensors on the meta device and tensors of a
    subclass are not checked.

    Args:
        tensors: Tensors by name.
        own: The tensors of the model that `tensors` are for.
        name: Name of the weights in errors.
        names: Names of the tensors in errors, by name, if these names differ.

    Raises:
        CheckpointError: If a value is refused. The message names the tensor.
    """
    for key, target in own.items():
        tensor = tensors.get(key)
        if tensor is None or tensor.is_meta or not {type(tensor), type(target)} <= {torch.Tensor, torch.nn.Parameter}:
            continue
        shown_key = shown((names or {}).get(key, key))
        if not _is_kind(tensor, target):
            raise CheckpointError(f'{name} has {shown_key} as {tensor.dtype} instead of {target.dtype}.')
        if not target.is_floating_point():
            continue
        if (extrema := _extrema(tensor, shown_key, name)) is None:
            continue
        # Checking the extrema is enough, because rounding keeps the order of numbers.
        if not all(torch.isfinite(e.to(target.dtype).double()) for e in extrema):
            raise CheckpointError(
                f'{name} has values in {shown_key} that {target.dtype}, the precision of the model, cannot hold.'
            )
        if key.endswith('running_var') and extrema[0] < 0:
            raise CheckpointError(f'{name} has a variance below zero in {shown_key}; its statistics are damaged.')


def _is_kind(tensor: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether the type of a tensor fits the model. Converting the weights may have made counters floats, too."""
    if target.is_floating_point():
        return tensor.is_floating_point() and (tensor.itemsize > 1 or target.itemsize == 1)
    return not tensor.is_complex() and torch.equal(tensor.to(target.dtype).to(tensor.dtype), tensor)


def _extrema(tensor: torch.Tensor, key: str, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The smallest and the largest value after a check that both are finite; None if there is nothing to check."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return None
    # Extrema are NaN if any value is NaN, and need no second tensor. torch has no extrema of 8-bit floats.
    extrema = (tensor.detach() if tensor.itemsize > 1 else tensor.float()).aminmax()
    if not all(torch.isfinite(e) for e in extrema):
        raise CheckpointError(
            f'{name} has NaN or infinite values in {key}, as after a training that diverged; use an earlier one.'
        )
    return extrema
