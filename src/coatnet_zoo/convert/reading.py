"""Reading a checkpoint file without executing anything in it."""

import io
import mmap
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..errors import CheckpointError, first_line, is_utf8, shown
from . import unpickling
from .adapter import Checkpoint, find_reader
from .state_dicts import find_network

# Intact files that hold no checkpoint, by their first bytes, with the way to one.
_OTHERS = {
    b'version https://git-lfs': 'a Git LFS pointer; fetch the file itself with `git lfs pull`',
    b'<': 'a web page; download the file itself, whose URL often has /resolve/ or /raw/ in place of /blob/',
    b'{': 'JSON, perhaps the index of a sharded checkpoint; load that where it was saved, and save one file',
    b'\x1f\x8b': 'a gzip archive; unpack it with gunzip or tar',
    b'\x93NUMPY': 'a NumPy array, not a state dict; save a state dict with torch.save',
}
_OTHERS |= dict.fromkeys(
    (bytes((8, version, 18)) for version in range(3, 16)),
    'an ONNX file, whose tensors have lost their names; save the state dict of the model that was exported',
)


def require_regular(path: str | os.PathLike) -> Path:
    """The path of a regular file or a link to one; any other path is a `CheckpointError`, as a pipe might never end."""
    if not os.path.isfile(path):
        instead = ', but a folder, pipe or device of that name' if os.path.exists(path) else ''
        raise CheckpointError(f'There is no file {shown(path, 500)}{instead}.')
    if not is_utf8(path):
        raise CheckpointError(f'{shown(path, 500)} has a name that is not UTF-8; rename it.')
    return Path(path)


def read_checkpoint(
    path: str | os.PathLike, ema: bool | None = False, key: str | None = None, prefix: str | None = None
) -> Checkpoint:
    """Read a `.pth`, `.pt`, `.bin` (torch.save) or `.safetensors` file, or a file in a third-party format.

    Nothing in the file is executed: objects other than tensors are read as plain data, see `unpickling`.

    Args:
        path: The file.
        ema: Take the exponential moving average of the weights; None: if the file has one under a key of its own.
        key: The key of the state dict. Default: one of the usual keys, or the only key that has a known network.
        prefix: The prefix of the names of the network, with or without a dot at the end. Default: the only prefix under
            which a known network is.

    Raises:
        CheckpointError: If the file is not a regular one, is damaged, or has not exactly one network of plain tensors.
    """
    path = require_regular(path)
    name = shown(path, 500)
    content, layers = _read(path)
    found = find_network(content, ema, name, key, prefix)
    return replace(found, layers=layers or found.layers, record=_record(content))


def corrupt(path: str | os.PathLike, kind: str, error: Exception) -> CheckpointError:
    """The error for a file of that kind, e.g. 'safetensors file', whose reader raised `error`."""
    reason = shown(first_line(error))
    return CheckpointError(f'{shown(path, 500)} is a corrupt or truncated {kind} ({reason}); fetch or save it again.')


def _read(path: Path) -> tuple[Any, Mapping[str, Mapping[str, Any]]]:
    """Read a file by the reader of its format: its content, and its layers if it describes them."""
    with path.open('rb') as file:
        start = file.read(64)
    if reader := find_reader(start):
        return (checkpoint := reader.read(path)).tensors, checkpoint.layers
    # The name decides only where the content is of neither kind.
    is_torch = start[:1] in (b'\x80', b'P')
    is_safe = start[5:9] == b'\0\0\0{' or (path.suffix == '.safetensors' and not is_torch)
    other = next((other for first, other in _OTHERS.items() if start.startswith(first)), None)
    if other and start[5:9] != b'\0\0\0{':
        raise CheckpointError(f'{shown(path, 500)} is {other}.')
    read_torch = _read_zip if start.startswith(b'PK\x03\x04') else _read_legacy
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return (safetensors.torch.load_file if is_safe else read_torch)(path), {}
    except CheckpointError:
        raise
    except Exception as e:  # reading a damaged file can raise any kind of exception
        raise corrupt(path, 'safetensors file' if is_safe else 'torch checkpoint', e) from e


def _read_zip(path: Path) -> Any:
    """Read what torch.save writes since torch 1.6. Tensors are mapped from the file into memory."""
    # torch takes a path with this ending for another format, whatever the content.
    data = _without_code(path) or (path.read_bytes() if path.suffix == '.safetensors' else None)
    sizes = _check_zip(io.BytesIO(data) if data else path, shown(path, 500))
    used: list[int] = []

    def on_cpu(storage: torch.UntypedStorage, _: str) -> torch.UntypedStorage:
        used.append(storage.nbytes())
        return storage

    source = io.BytesIO(data) if data else path
    content = torch.load(source, on_cpu, unpickling, weights_only=False, mmap=data is None)
    if sorted(filter(None, used)) != sizes:
        raise ValueError('the record of a tensor does not have the length of the tensor')
    return content


def _without_code(path: Path) -> bytes | None:
    """The data of a file of TorchScript, for which torch.load would execute its code; None for another file."""
    data = io.BytesIO()
    with zipfile.ZipFile(path) as script, zipfile.ZipFile(data, 'w') as archive:
        if not any(name.endswith('/constants.pkl') for name in script.namelist()):
            return None
        parts = re.compile(r'[^/]+/(?:data/|data\.pkl$|byteorder$|(?:\.data/)?version$)')
        records = [r for r in script.infolist() if parts.match(r.filename) and r.compress_type == zipfile.ZIP_STORED]
        if not any('/data/' in record.filename for record in records):
            raise CheckpointError(
                f'{shown(path, 500)} is a frozen TorchScript file, whose tensors have no names; save the state dict of '
                'the model before it is frozen.'
            )
        for record in records:
            archive.writestr(record.filename, script.read(record))
    return data.getvalue()


def _check_zip(file: Path | io.BytesIO, name: str) -> list[int]:
    """Check every checksum and what torch.save never writes; return the sizes of the tensors' records, sorted."""
    with zipfile.ZipFile(file) as archive:
        records = {record.filename: record for record in archive.infolist()}
        if 'model.weights.h5' in records:
            raise CheckpointError(f'{name} is a .keras file; save it as .h5: model.save("model.h5").')
        if records and all(record.endswith('.npy') for record in records):
            raise CheckpointError(f'{name} holds NumPy arrays, not a state dict; save a state dict with torch.save.')
        if len(records) < len(archive.infolist()):
            raise ValueError('it has two records with the same name')
        if any(record.compress_type != zipfile.ZIP_STORED for record in records.values()):
            raise ValueError('it has a compressed record, which could be of any length')
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f'its record {shown(damaged)} is damaged')
    return sorted(record.file_size for name, record in records.items() if '/data/' in name and record.file_size)


def _read_legacy(path: Path) -> Any:
    """Read what torch.save wrote before torch 1.6: five pickles, then the bytes of the tensors, without checksums."""
    with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # From a path, torch would also extract tar archives.
        saved = torch.load(content, 'cpu', unpickling, weights_only=False)
        if content.tell() < len(content):
            raise ValueError('its list of tensors is wrong')
    return saved


def _record(content: Any) -> Mapping[str, Any]:
    """The arguments of timm's train.py, which saves them as an `argparse.Namespace`, and the model's name as `arch`."""
    args = content.get('args') if isinstance(content, Mapping) else None
    is_train_py = isinstance(args, unpickling.Stub) and isinstance(content.get('arch'), str)
    return args.attributes if is_train_py and content['arch'] == args.attributes.get('model') else {}
