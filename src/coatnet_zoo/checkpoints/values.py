"""Refusing weights with values that no model has, so that diverged or damaged weights do not pass for a model."""

from collections.abc import Mapping

import torch

from ..errors import CheckpointError, shown


def check_values(
    tensors: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
    name: str,
    names: Mapping[str, str] | None = None,
) -> None:
    """Refuse values that a model does not have once they are in the precision of the model.

    These are numbers that are not finite or become so, variances below zero, and integers where a model has
    floating-point numbers, which torch would take without a word. Tensors that a model does not have are left to
    `load_state_dict`, and tensors without values of their own, on the meta device or of a subclass, are not looked at.

    Args:
        tensors: Tensors by name.
        own: The tensors of the model that `tensors` are for.
        name: What to call the weights in errors.
        names: What to call the tensors in errors, by name, where that is another name.

    Raises:
        CheckpointError: With the name of the tensor.
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
        # Extrema tell of every value: rounding keeps the order of numbers.
        if not all(torch.isfinite(e.to(target.dtype).double()) for e in extrema):
            raise CheckpointError(
                f'{name} has values in {shown_key} that {target.dtype}, the precision of the model, cannot hold.'
            )
        if key.endswith('running_var') and extrema[0] < 0:
            raise CheckpointError(f'{name} has a variance below zero in {shown_key}; its statistics are damaged.')


def _is_kind(tensor: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether the numbers can stand for those of a model. Counters may have been made floats with the weights."""
    if target.is_floating_point():
        return tensor.is_floating_point() and (tensor.itemsize > 1 or target.itemsize == 1)
    return not tensor.is_complex() and torch.equal(tensor.to(target.dtype).to(tensor.dtype), tensor)


def _extrema(tensor: torch.Tensor, key: str, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The least and the largest value, if there are any, after a check that they are finite."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return None
    # Extrema carry NaN along and need no second tensor; torch has no extrema of 8-bit floats.
    extrema = (tensor.detach() if tensor.itemsize > 1 else tensor.float()).aminmax()
    if not all(torch.isfinite(e) for e in extrema):
        raise CheckpointError(
            f'{name} has NaN or infinite values in {key}, as after a training that diverged; use an earlier one.'
        )
    return extrema
