"""Bytes of sound and of damaged safetensors files."""

import json
import struct
from typing import Any


def image_of(header: Any, data: bytes = b'\0' * 16, claim: int | None = None) -> bytes:
    """The bytes of a safetensors file: the length of the header, the header, the data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(text) if claim is None else claim) + text + data


def tensor(dtype: Any = 'F32', shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return dict(dtype=dtype, shape=shape, data_offsets=offsets)
