"""Files of torch.save from before torch 1.6: several pickles in a row, then the bytes of the tensors."""

import mmap
import struct
from pathlib import Path
from typing import Any

import torch

from ._torch import MAGIC_NUMBER, PROTOCOL_VERSION, typed_storage
from .pickles import unpickle

_COUNT = struct.Struct('<q')


def read_legacy(path: Path) -> Any:
    """Read the saved object. The format has no checksums.

    Raises:
        Exception: Any exception, with the reason why the file is not complete.
    """
    storages: dict[str, tuple[torch.UntypedStorage, torch.dtype]] = {}
    with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        left = len(content)

        def storage_of(reference: tuple) -> torch.TypedStorage:
            nonlocal left
            _, kind, key, _, count, view = reference
            dtype = kind.dtype
            if key not in storages:
                left -= count * dtype.itemsize
                if count < 0 or left < 0:
                    raise ValueError('its tensors are larger than the file')
                storages[key] = (torch.UntypedStorage(count * dtype.itemsize), dtype)
            storage = storages[key][0]
            if view is not None:  # until torch 0.3
                _, start, length = view
                storage = storage[start * dtype.itemsize : (start + length) * dtype.itemsize]
            return typed_storage(storage, dtype)

        def no_storage(reference: tuple) -> Any:
            raise ValueError('a tensor is where none belongs')

        if unpickle(content, no_storage) != MAGIC_NUMBER or unpickle(content, no_storage) != PROTOCOL_VERSION:
            raise ValueError('it does not begin as torch.save begins')
        if not unpickle(content, no_storage)['little_endian']:
            raise ValueError('its bytes are in another order')
        saved = unpickle(content, storage_of)
        keys = unpickle(content, no_storage)
        if len(keys) != len(storages) or set(keys) != set(storages):
            raise ValueError('its list of tensors is wrong')
        for key in keys:
            _fill(*storages[key], content)
    return saved


def _fill(storage: torch.UntypedStorage, dtype: torch.dtype, content: mmap.mmap) -> None:
    target = torch.empty(0, dtype=torch.uint8).set_(storage)
    (count,) = _COUNT.unpack(content.read(_COUNT.size))
    source = content.read(target.numel())
    if count * dtype.itemsize != target.numel() or len(source) != target.numel():
        raise ValueError('a tensor is cut short')
    if source:
        target.copy_(torch.frombuffer(bytearray(source), dtype=torch.uint8))
