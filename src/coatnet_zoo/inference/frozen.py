"""Compiling a part of a model for inference, with its weights as constants."""

import contextlib
import itertools

import torch
import torch._inductor.config
from torch import nn

from ..slow import say_if_slow


class Frozen(nn.Module):
    """A module that is compiled for inference, with its weights as constants.

    Args:
        module: A module that takes one tensor and returns one tensor.
        name: Name of the module for the log: 'stage 1'.
    """

    _numbers = itertools.count()

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module = module
        self.name = name
        self.sizes: set[torch.Size] = set()

        def call(x: torch.Tensor) -> torch.Tensor:
            return module(x)

        # For each function, the compiler records the sizes and counts how often it compiles again. Modules of one class
        # share a function, so different widths of the stages would look like sizes that change from call to call.
        call.__code__ = call.__code__.replace(co_name=f'{type(module).__name__}_{next(self._numbers)}')
        self.compiled = torch.compile(call)

    def __reduce__(self) -> tuple[type['Frozen'], tuple[nn.Module, str]]:
        # Compiled code cannot be copied or pickled; copies compile again.
        return Frozen, (self.module, self.name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Call the module. A call with a new size may compile again."""
        is_new = x.shape not in self.sizes
        self.sizes.add(x.shape)
        said = say_if_slow(f'Compiling {self.name} of the model') if is_new else contextlib.nullcontext()
        # Both halves of the compiler read this setting, and the `options` of torch.compile reach only one of them. The
        # setting has no effect if gradients are on.
        with said, torch._inductor.config.patch(freezing=True), torch.no_grad():
            return self.compiled(x)
