"""A file of weights for a network of any size, which is made at once and takes no space."""

import json
from pathlib import Path

import timm


def empty_weights(name: str, folder: Path) -> Path:
    """A file of weights that are all zero, which takes no space on the disk."""
    tensors, end = {}, 0
    types = {'torch.float32': 'F32', 'torch.int64': 'I64'}
    for key, tensor in timm.create_model(name, device='meta').state_dict().items():
        begin, end = end, end + tensor.nbytes
        tensors[key] = dict(dtype=types[str(tensor.dtype)], shape=list(tensor.shape), data_offsets=[begin, end])
    header = json.dumps(tensors).encode()
    file = folder / f'{name}.safetensors'
    with file.open('wb') as f:
        f.write(len(header).to_bytes(8, 'little') + header)
        f.truncate(8 + len(header) + end)
    return file
