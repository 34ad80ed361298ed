"""The parts of torch that reading checkpoints uses and that torch may change, in one place."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch._utils import _validate_loaded_sparse_tensors
from torch._weights_only_unpickler import Unpickler
from torch.serialization import MAGIC_NUMBER as MAGIC_NUMBER
from torch.serialization import PROTOCOL_VERSION as PROTOCOL_VERSION

_MAX_TUPLE = 10_000


class _Readable(Protocol):
    def read(self, size: int) -> bytes: ...

    def readline(self) -> bytes: ...


class _Memo(dict):
    """The objects that a pickle refers to again. Hashing deeply nested tuples would take forever."""

    def __setitem__(self, index: int, value: Any) -> None:
        unseen, seen = [value], 0
        while unseen:
            last = unseen.pop()
            seen += 1
            if type(last) is tuple:
                unseen.extend(last)
            if seen + len(unseen) > _MAX_TUPLE:
                raise ValueError('a tuple in the pickle is too large')
        super().__setitem__(index, value)


def unpickle(file: _Readable, storage_of: Callable[[Any], Any]) -> Any:
    """Unpickle as `torch.load(..., weights_only=True)` does: nothing in the file is executed.

    Args:
        file: The file, at the position where the pickle starts.
        storage_of: Returns the storage for a reference in the pickle.
    """
    unpickler = Unpickler(file, encoding='utf-8')
    unpickler.memo = _Memo()
    unpickler.persistent_load = storage_of
    try:
        return unpickler.load()
    finally:
        # torch keeps a list of sparse tensors until this call.
        _validate_loaded_sparse_tensors()


def typed_storage(storage: torch.UntypedStorage, dtype: torch.dtype) -> torch.TypedStorage:
    """The storage in the form that torch's functions for rebuilding tensors take."""
    return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)
