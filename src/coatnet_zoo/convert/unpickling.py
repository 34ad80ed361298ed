"""An unpickler that executes nothing: every class and function in a pickle becomes an inert `Stub` with its state.

`torch.load` takes this module as its `pickle_module`. Only torch's functions that rebuild a tensor from stored bytes
are called, see "Restricting Globals" in the Python manual.
"""

import pickle
import pickletools
from typing import IO, Any

import torch
from torch.serialization import StorageType

# What torch.save writes for plain tensors and parameters.
_FUNCTIONS = {
    'torch._utils._rebuild_tensor': torch._utils._rebuild_tensor,
    'torch._utils._rebuild_tensor_v2': torch._utils._rebuild_tensor_v2,
    'torch._utils._rebuild_tensor_v3': torch._utils._rebuild_tensor_v3,
    'torch._utils._rebuild_parameter': lambda tensor, *_: tensor,
    'torch._utils._rebuild_parameter_with_state': lambda tensor, *_: tensor,
}


class Stub(dict[Any, Any]):
    """An object whose class is not imported, or the result of a function that is not called.

    A stub has the items of an object whose class is a dictionary, but not the elements of a list or a set.
    """

    # The arguments of the call; the attributes of the object, e.g. `_parameters` of a `torch.nn.Module`.
    __slots__ = ('args', 'attributes')
    name = ''  # module and name of the class or function
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __new__(cls, *args: Any, **kwargs: Any) -> 'Stub':
        stub = super().__new__(cls)
        stub.args, stub.attributes = args, {}
        return stub

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):  # a tuple of the attributes and those of slots
            if isinstance(part, dict):
                self.attributes.update(part)

    def extend(self, elements: Any) -> None:
        """Drop the elements of a list or, under the name `add`, of a set."""

    add = extend


class Unpickler(pickle.Unpickler):
    """An unpickler that makes stubs."""

    def __init__(self, file: IO[bytes], **options: Any) -> None:
        start = file.tell()
        for opcode, argument, position in pickletools.genops(file):
            # The registry of copyreg is past find_class, and the memo is an array with room for its largest number.
            if opcode.name.startswith('EXT') or (opcode.name.endswith('PUT') and argument > position):
                raise pickle.UnpicklingError('an object from a registry, or a number that is too large')
        file.seek(start)
        super().__init__(file, **options)
        self._stubs: dict[str, type[Stub]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """A function of torch, a dtype, or a class of stubs. Nothing is imported."""
        path = f'{module}.{name}'
        if path in _FUNCTIONS:  # a new function every time, because a pickle can set attributes of what it is given
            return lambda *args: _FUNCTIONS[path](*args)
        if path == 'torch.storage.UntypedStorage':
            return StorageType('ByteStorage')
        if module == 'torch' and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        if path not in self._stubs:
            if len(self._stubs) == 1000:
                raise pickle.UnpicklingError('too many classes')
            self._stubs[path] = type(path, (Stub,), dict(name=path, __slots__=()))
        return self._stubs[path]


def load(file: IO[bytes], **options: Any) -> Any:
    """Read the next pickle of a file, as `pickle.load` does."""
    return Unpickler(file, **options).load()
