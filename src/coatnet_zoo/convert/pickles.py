"""Reading the pickles that torch.save writes as plain data: nothing that a pickle names is imported or called.

The exceptions are tensors and the containers that torch's own reading with `weights_only` admits. Everything else, such
as an `argparse.Namespace`, a path or a scheduler, becomes an `Unread` object. So a state dict can be read whatever a
training script saved next to the state dict.
"""

import pickle
import pickletools
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import torch

from ..errors import shown
from ._torch import SIZED, allowed_globals, forget_sparse

# Opcodes whose argument is the value.
_VALUES = {
    *('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT'),
    *('STRING', 'BINSTRING', 'SHORT_BINSTRING', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8'),
    *('UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8'),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    **{'NONE': lambda: None, 'NEWTRUE': lambda: True, 'NEWFALSE': lambda: False},
    **{'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple, 'EMPTY_DICT': dict, 'EMPTY_SET': set},
}
_MOST_IN_KEY = 10_000
_PROTOCOLS = range(2, 6)


class Reader(Protocol):
    """A file in memory or mapped into memory."""

    def read(self, size: int) -> bytes:
        """Read bytes."""

    def readline(self) -> bytes:
        """Read a line."""


class Unread(dict[Any, Any]):
    """An object in a pickle whose class is not made: its attributes, and its items if the class is a dictionary.

    Attributes:
        name: Module and name of the class or function.
        attributes: The attributes that the pickle gives the object.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.attributes: dict[Any, Any] = {}

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class _Name(str):
    """The name of a class or function that is not imported."""


def unpickle(file: Reader, storage_of: Callable[[Any], Any]) -> Any:
    """Read the next pickle of a file.

    Args:
        file: The file, at the position where the pickle starts.
        storage_of: Returns the storage for a reference in the pickle.

    Raises:
        pickle.UnpicklingError: If the pickle has what torch.save does not write.
        Exception: Any other exception, if the pickle is damaged.
    """
    machine = _Machine(storage_of)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    finally:
        forget_sparse()


class _Machine:
    """The stack machine of pickles, with a method for every opcode."""

    def __init__(self, storage_of: Callable[[Any], Any]) -> None:
        self.storage_of = storage_of
        self.allowed = allowed_globals()
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Execute one opcode."""
        if opcode in _VALUES:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif method := getattr(self, f'op_{opcode.lower()}', None):
            method(argument)
        else:
            raise pickle.UnpicklingError(f'the opcode {opcode}')

    def op_proto(self, number: int) -> None:
        if number not in _PROTOCOLS:
            raise pickle.UnpicklingError(f'protocol {number}')

    def op_frame(self, size: int) -> None:
        """A frame only says how much could be read at once."""

    op_stop = op_frame

    # The stack and the memo.

    def op_mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def op_pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._since_mark()

    def op_pop_mark(self, _: None) -> None:
        self._since_mark()

    def op_dup(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    def op_memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def op_get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    op_binput = op_long_binput = op_put
    op_binget = op_long_binget = op_get

    # Containers.

    def op_tuple(self, _: None) -> None:
        items = self._since_mark()
        self.stack.append(tuple(items))

    def op_tuple1(self, _: None) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def op_tuple2(self, _: None) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def op_tuple3(self, _: None) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def op_list(self, _: None) -> None:
        items = self._since_mark()
        self.stack.append(items)

    def op_dict(self, _: None) -> None:
        items = self._since_mark()
        self.stack.append({})
        self._set(items)

    def op_append(self, _: None) -> None:
        self._extend([self.stack.pop()])

    def op_appends(self, _: None) -> None:
        self._extend(self._since_mark())

    def op_additems(self, _: None) -> None:
        items = self._since_mark()
        self.stack[-1].update(map(_as_key, items))

    def op_frozenset(self, _: None) -> None:
        items = self._since_mark()
        self.stack.append(frozenset(map(_as_key, items)))

    def op_setitem(self, _: None) -> None:
        items = self.stack[-2:]
        del self.stack[-2:]
        self._set(items)

    def op_setitems(self, _: None) -> None:
        self._set(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Unread):
            raise pickle.UnpicklingError('items of an object that is no list')

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise pickle.UnpicklingError('items of an object that is no dictionary')
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_as_key(key)] = value

    # Names, and objects that are made from them.

    def op_global(self, names: str) -> None:
        module, _, name = names.partition(' ')
        self._name(f'{module}.{name}')

    def op_stack_global(self, _: None) -> None:
        name = self.stack.pop()
        self._name(f'{self.stack.pop()}.{name}')

    def _name(self, name: str) -> None:
        name = name.replace('__builtin__.', 'builtins.')  # the name until protocol 2
        self.stack.append(self.allowed.get(name, _Name(name)))

    def op_reduce(self, _: None) -> None:
        arguments = self.stack.pop()
        self._make(self.stack.pop(), arguments)

    def op_newobj(self, _: None) -> None:
        arguments = self.stack.pop()
        kind = self.stack.pop()
        self._make(kind if isinstance(kind, _Name) else _new_of(kind), arguments)

    def op_newobj_ex(self, _: None) -> None:
        del self.stack[-2:]
        self._make(self.stack.pop(), ())

    def op_obj(self, _: None) -> None:
        kind, *_rest = self._since_mark()
        self._make(kind, ())

    def op_inst(self, names: str) -> None:
        self._since_mark()
        self._make(_Name(names.replace(' ', '.')), ())

    def _make(self, kind: Any, arguments: tuple[Any, ...]) -> None:
        if isinstance(kind, _Name):
            self.stack.append(Unread(kind))
        elif kind is set:
            self.stack.append(set(map(_as_key, *arguments)))
        elif kind is Counter or kind is OrderedDict:
            self.stack.append(kind())
            for pairs in arguments:
                self._set([part for pair in getattr(pairs, 'items', lambda p=pairs: p)() for part in pair])
        elif arguments and kind in SIZED:
            raise pickle.UnpicklingError('a tensor that is not stored in the file')
        elif unknown := next((part for part in arguments if isinstance(part, _Name)), None):
            raise pickle.UnpicklingError(f'a tensor of the class {shown(str(unknown))}')
        elif callable(kind):
            self.stack.append(kind(*arguments))
        else:
            raise pickle.UnpicklingError('a call of an object that is no function')

    def op_build(self, _: None) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Unread):
            # The attributes may come with those of slots.
            for part in state if isinstance(state, tuple) else (state,):
                if isinstance(part, dict):
                    target.attributes.update(part)
        elif type(target) is torch.Tensor:
            target.set_(*state)  # files from before torch 0.4
        elif isinstance(target, torch.nn.Parameter):
            target.__setstate__(state)
        elif not isinstance(target, dict):  # the attributes of a dictionary do not matter here
            raise pickle.UnpicklingError('the state of an object that has none')

    def op_binpersid(self, _: None) -> None:
        reference = self.stack.pop()
        kind = reference[0] if isinstance(reference, tuple) and reference else None
        if kind == 'module':  # until torch 1.5, the class of a pickled module, with its source
            self.stack.append(reference[1])
        elif kind in ('storage', b'storage'):
            self.stack.append(self.storage_of(reference))
        else:
            raise pickle.UnpicklingError('a reference that is none to a storage')


def _new_of(kind: Any) -> Callable[..., Any]:
    if not isinstance(kind, type):
        raise pickle.UnpicklingError('an object of no class')
    return lambda *arguments: kind.__new__(kind, *arguments)


def _as_key(key: Any) -> Any:
    """A key of a dictionary. Hashing deeply nested tuples would take forever."""
    unseen, seen = [key], 0
    while unseen:
        last = unseen.pop()
        seen += 1
        if isinstance(last, (tuple, frozenset)):
            unseen.extend(last)
        if seen + len(unseen) > _MOST_IN_KEY:
            raise ValueError('a tuple in the pickle is too large')
    return key
