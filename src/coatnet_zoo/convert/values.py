"""Refusing tensors that are not plain numbers in memory, and values that no trained model has."""

from collections.abc import Mapping

import torch

from ..errors import CheckpointError, shown

Tensors = Mapping[str, torch.Tensor]


def not_plain(tensor: torch.Tensor) -> str | None:
    """The name for a tensor that is not an array of plain numbers; None for a plain tensor."""
    kinds = dict(nested=tensor.is_nested, sparse=tensor.layout != torch.strided, quantised=tensor.is_quantized)
    is_small = tensor.is_floating_point() and tensor.itemsize == 1
    kinds[str(tensor.dtype)] = is_small or tensor.is_complex() or tensor.dtype == torch.bool
    return next((kind for kind, is_so in kinds.items() if is_so), None)


def check_shapes(
    tensors: Tensors, own: Mapping[str, tuple[int, ...]], name: str, names: Mapping[str, str] | None = None
) -> None:
    """Refuse tensors that are not those of a model, by name and shape; see `check_values`.

    Counters of batches may be missing, as in files from before torch 0.4.1.
    """
    for key in {**own, **tensors}:
        label = shown((names or {}).get(key, key))
        if key not in tensors and not key.endswith('.num_batches_tracked'):
            raise CheckpointError(f'{name} lacks the tensor {label} of this network.')
        if key not in own:
            raise CheckpointError(f'{name} has the tensor {label}, which this network does not have.')
        if key in tensors and tuple(tensors[key].shape) != own[key]:
            way = '; give the size of the training images, by img_size=(HEIGHT, WIDTH) or --img-size HEIGHTxWIDTH'
            raise CheckpointError(
                f'The tensor {label} of {name} has shape {tuple(tensors[key].shape)}, but this network needs '
                f'{own[key]}{way * key.endswith("bias_table")}.'
            )


def check_values(tensors: Tensors, own: Tensors, name: str, names: Mapping[str, str] | None = None) -> None:
    """Refuse values that no model has in the precision of the model.

    Tensors that the model does not have, tensors on the meta device and tensors of a subclass are not checked.

    Args:
        tensors: Tensors by name.
        own: The tensors of the model that `tensors` are for.
        name: Name of the weights in errors.
        names: Names of the tensors in errors, by name, if these names differ.

    Raises:
        CheckpointError: If a number is not finite in the weights or in the precision of the model, a variance is below
            zero, or integers are where the model has floating-point numbers, which torch would accept.
    """
    for key, target in own.items():
        tensor = tensors.get(key)
        if tensor is None or tensor.is_meta or not {type(tensor), type(target)} <= {torch.Tensor, torch.nn.Parameter}:
            continue
        if not target.is_floating_point() or tensor.numel() == 0:
            continue  # averaging or converting makes other numbers of counters of batches, which no network needs
        label = shown((names or {}).get(key, key))
        if not tensor.is_floating_point() or tensor.itemsize == 1 < target.itemsize:
            raise CheckpointError(f'{name} has {label} as {tensor.dtype} instead of {target.dtype}.')
        # Extrema are NaN if any value is NaN, and need no second tensor. torch has no extrema of 8-bit floats.
        extrema = (tensor.detach() if tensor.itemsize > 1 else tensor.float()).aminmax()
        low, high = (extremum.cpu() for extremum in extrema)  # not every device has float64
        if not (low.isfinite() and high.isfinite()):
            raise CheckpointError(
                f'{name} has NaN or infinite values in {label}, as after diverged training; use an earlier one.'
            )
        # Checking the extrema is enough, because rounding keeps the order of numbers.
        if not all(torch.isfinite(e.to(target.dtype).double()) for e in (low, high)):
            raise CheckpointError(f"{name} has values in {label} too large for {target.dtype}, the model's precision.")
        if key.endswith('running_var') and low < 0:
            raise CheckpointError(f'{name} has a variance below zero in {label}; its statistics are damaged.')
