"""Checking that a module computes exactly what its class defines, before the module is folded or replaced."""

import functools

from torch import nn


@functools.cache
def _methods(module_type: type[nn.Module]) -> frozenset[str]:
    return frozenset(name for name in dir(module_type) if callable(getattr(module_type, name, None)))


def is_exactly(module: nn.Module | None, *types: type[nn.Module]) -> bool:
    """Whether a module is an instance of one of the classes, and nothing changes what the module computes.

    Subclasses (LoRA layers, parametrizations), hooks, methods that an instance replaces (`module.forward = ...`) and
    parameters of tensor subclasses may change what a module computes.
    """
    return type(module) in types and is_unchanged(module)


def is_unchanged(module: nn.Module) -> bool:
    """Whether a module computes what its class defines, see `is_exactly`."""
    if module._forward_hooks or module._forward_pre_hooks or not _methods(type(module)).isdisjoint(vars(module)):
        return False
    return all([p is None or type(p) is nn.Parameter for p in module._parameters.values()])
