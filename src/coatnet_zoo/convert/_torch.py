"""The parts of torch that reading checkpoints uses and that torch may change, in one place."""

import functools
from typing import Any

import torch
from torch._utils import _validate_loaded_sparse_tensors
from torch._weights_only_unpickler import _get_allowed_globals
from torch.serialization import MAGIC_NUMBER as MAGIC_NUMBER
from torch.serialization import PROTOCOL_VERSION as PROTOCOL_VERSION

# The classes that take the number of their values: without a limit, a pickle could ask for any number.
SIZED = {torch.Tensor, torch.UntypedStorage, torch.TypedStorage, *torch._tensor_classes}

# torch keeps a list of the sparse tensors that were made until this function is called.
forget_sparse = _validate_loaded_sparse_tensors


@functools.cache
def allowed_globals() -> dict[str, Any]:
    """What a pickle may call, by name: the functions and classes that `torch.load(..., weights_only=True)` admits.

    What makes bytes is left out: a `bytearray` may have any length, and no tensor needs bytes.
    """
    return {k: v for k, v in _get_allowed_globals().items() if k not in ('builtins.bytearray', '_codecs.encode')}


def typed_storage(storage: torch.UntypedStorage, dtype: torch.dtype) -> torch.TypedStorage:
    """The storage in the form that torch's functions for rebuilding tensors take."""
    return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)
