"""Parameters whose shape has changed: at their next step, optimisers drop the state of these parameters.

With averages of gradients in the old shape, torch would raise errors, and its fused optimisers would write beyond the
end of the averages.
"""

import functools
import gc
import logging
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

_logger = logging.getLogger(__name__)
_resized = WeakIdKeyDictionary()


def _forget(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    if not _resized:
        return
    params = [p for group in optimizer.param_groups for p in group['params'] if _resized.pop(p, False)]
    if any([optimizer.state.pop(p, None) for p in params]):
        _logger.warning(
            '%s starts again with %d position tables, whose shape has changed.', type(optimizer).__name__, len(params)
        )


@functools.cache
def _watch_optimizers() -> None:
    register_optimizer_step_pre_hook(_forget)


def _is_in_buckets(model: nn.Module, holder: object) -> bool:
    # type() gives the class of a proxy; isinstance() would load the object behind the proxy.
    return issubclass(type(holder), DistributedDataParallel) and any(m is model for m in holder.modules())


def check_not_in_buckets(model: nn.Module) -> None:
    """Check that no DistributedDataParallel holds the model, because its buckets of gradients cannot be resized.

    Raises:
        RuntimeError: If a DistributedDataParallel holds the model.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    gc.collect()
    if any(_is_in_buckets(model, holder) for holder in gc.get_objects()):
        raise RuntimeError(
            'The input size cannot change inside DistributedDataParallel; call set_input_size before you make '
            'DistributedDataParallel, or delete DistributedDataParallel and make it again afterwards.'
        )


def replace_values(parameter: nn.Parameter, values: torch.Tensor) -> None:
    """Give a parameter values of another shape. The parameter stays the same object, so optimisers still train it."""
    parameter.grad = None
    # torch expects gradients of the old shape as long as an old loss is alive, until the precision changes.
    parameter.data = values.new_empty(0, dtype=torch.float32 if values.dtype == torch.float64 else torch.float64)
    parameter.data = values
    _resized[parameter] = True
    _watch_optimizers()
