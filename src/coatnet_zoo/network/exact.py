"""Checking that a module computes exactly what its class defines, before the module is folded or replaced."""

from torch import nn

_HOOKS = ('_forward_hooks', '_forward_pre_hooks')


def is_exactly(module: nn.Module | None, *types: type[nn.Module]) -> bool:
    """Whether a module is an instance of one of the classes, and nothing changes what the module computes.

    Subclasses (LoRA layers, parametrizations), hooks, methods that an instance replaces (`module.forward = ...`) and
    parameters of tensor subclasses may change what a module computes.
    """
    return (
        type(module) in types
        and not any(getattr(module, hooks) for hooks in _HOOKS)
        and not any(callable(getattr(type(module), name, None)) for name in vars(module))
        and all(p is None or type(p) is nn.Parameter for p in module._parameters.values())
    )
