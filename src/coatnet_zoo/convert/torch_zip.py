"""Zip archives that torch.save writes: every record is checked before its content is used.

torch does not compare the checksum of a record, and does not compare the length of a record with its tensor.
"""

import os
import struct
import sys
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, shown
from ._torch import typed_storage
from .pickles import unpickle

# The signature, 22 bytes that the directory repeats, and the lengths of the name and of the extra field.
_LOCAL_HEADER = struct.Struct('<4s22xHH')
_MAX_THREADS = 4  # zlib reads about 1 GB/s in each thread


def read_zip(path: Path) -> Any:
    """Read the saved object. Tensors are mapped from the file into memory.

    Raises:
        CheckpointError: If the file is TorchScript's.
        Exception: Any other exception, with the reason why the file is not complete.
    """
    whole = torch.UntypedStorage.from_file(os.fspath(path), False, path.stat().st_size)
    content = memoryview(torch.empty(0, dtype=torch.uint8).set_(whole).numpy())
    with path.open('rb') as file:
        places = _checked_places(file, content)
    root = next((name for name in places if name.count('/') == 1 and name.endswith('/data.pkl')), None)
    if root is None:
        raise ValueError('it has no data.pkl')
    root = root.removesuffix('data.pkl')
    pickled, swapped = (_bytes(content, places.get(root + name)) for name in ('data.pkl', 'byteorder'))
    swap = swapped not in (b'', sys.byteorder.encode())
    if swap and swapped not in (b'little', b'big'):
        raise ValueError('its byte order is unknown')
    storages: dict[str, torch.TypedStorage] = {}

    def storage_of(reference: tuple) -> torch.TypedStorage:
        _, kind, key, _, count = reference
        dtype = torch.uint8 if kind is torch.UntypedStorage else kind.dtype
        start, size = places[f'{root}data/{key}']
        if count * dtype.itemsize != size:
            raise ValueError(f'the record of a tensor has {size} bytes, the tensor {count * dtype.itemsize}')
        if key not in storages:
            storage = whole[start : start + size]
            if swap:
                storage.byteswap(dtype)
            storages[key] = typed_storage(storage, dtype)
        return storages[key]

    return unpickle(BytesIO(pickled), storage_of)


def _bytes(content: memoryview, place: tuple[int, int] | None) -> bytes:
    start, size = place or (0, 0)
    return bytes(content[start : start + size])


def _checked_places(file: Any, content: memoryview) -> dict[str, tuple[int, int]]:
    """Offset and length of every record by name, after a check of every byte."""
    places: dict[str, tuple[int, int]] = {}
    sums: list[tuple[int, int, int]] = []
    with zipfile.ZipFile(file) as archive:
        if any(name.endswith('/constants.pkl') for name in archive.namelist()):
            name = shown(file.name, 500)
            raise CheckpointError(
                f'{name} is a TorchScript file, whose code would have to be executed; save its state dict: '
                f'model = torch.jit.load({name!r}); torch.save(model.state_dict(), "weights.pth").'
            )
        for record in archive.infolist():
            if record.filename in places:
                raise ValueError('it has two records of one name')
            # torch.save never compresses, and a compressed record could be of any length.
            if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
                raise ValueError('it has a compressed or encrypted record, as torch.save does not write')
            signature, name, extra = _LOCAL_HEADER.unpack_from(content, record.header_offset)
            start = record.header_offset + _LOCAL_HEADER.size + name + extra
            if signature != b'PK\x03\x04' or start + record.file_size > archive.start_dir:
                raise ValueError('a record does not lie inside of the file')
            if bytes(content[start - extra - name : start - extra]).decode() != record.orig_filename:
                raise ValueError('a record has two names')
            places[record.filename] = (start, record.file_size)
            sums.append((record.file_size, start, record.CRC))

    def is_whole(record: tuple[int, int, int]) -> bool:
        size, start, expected = record
        return zlib.crc32(content[start : start + size]) == expected

    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
        if not all(threads.map(is_whole, sorted(sums, reverse=True))):
            raise ValueError('the checksum of a record is wrong')
    return places
