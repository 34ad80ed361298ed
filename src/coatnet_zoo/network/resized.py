"""Parameters whose shape has changed: optimisers drop what they remember of them at their next step.

Means of gradients in the old shape would raise errors of torch, and its fused optimisers would write beyond them.
"""

import functools
import logging
from typing import Any

import torch
from torch import nn
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
            '%s starts anew with %d position tables, whose shape has changed.', type(optimizer).__name__, len(params)
        )


@functools.cache
def _watch_optimizers() -> None:
    register_optimizer_step_pre_hook(_forget)


def replace_values(parameter: nn.Parameter, values: torch.Tensor) -> None:
    """Give a parameter values of another shape. It stays the same object, so optimisers go on training it."""
    parameter.grad = None
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        # torch expects gradients of the old shape as long as an old loss is alive, until the precision changes.
        # DistributedDataParallel must not forget: it would silently leave out the parameter, and now raises an error.
        parameter.data = values.new_empty(0, dtype=torch.float64 if values.dtype != torch.float64 else torch.float32)
    parameter.data = values
    _resized[parameter] = True
    _watch_optimizers()
