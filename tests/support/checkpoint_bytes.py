"""A real checkpoint as a state dict, as bytes and as files, and its refusal."""

import io
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import DATA

from coatnet_zoo import CheckpointError, convert_checkpoint

FIXTURE = DATA / 'chinhsuanwu_digits_64.pth'
STATE_DICT = {
    k.removeprefix('module.'): v for k, v in torch.load(FIXTURE, weights_only=True)['model_state_dict'].items()
}


def saved(content: Any, **kwargs: Any) -> bytes:
    """The bytes that torch.save writes; the arguments are those of torch.save."""
    file = io.BytesIO()
    torch.save(content, file, **kwargs)
    return file.getvalue()


def records(content: Any) -> dict[str, bytes]:
    """The records of the archive that torch.save writes, by name."""
    with zipfile.ZipFile(io.BytesIO(saved(content))) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def archive(parts: Iterable[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of these records, with checksums; two may have one name."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, 'w', compression) as opened:
        warnings.simplefilter('ignore')
        for name, data in parts:
            opened.writestr(name, data)
    return file.getvalue()


def write(folder: Path, content: bytes) -> Path:
    """A `.pth` file with these bytes."""
    (folder / 'a.pth').write_bytes(content)
    return folder / 'a.pth'


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors with a prefix before their names."""
    return {prefix + k: v for k, v in tensors.items()}


def refusal(src: Path) -> str:
    """The one-line error by which conversion refuses a file, after which there is no folder."""
    with pytest.raises(CheckpointError) as e:
        convert_checkpoint(src, src.with_name('out'))
    message = str(e.value)
    assert message.isprintable() and message.endswith('.') and len(message) < 1500
    assert not src.with_name('out').exists()
    return message
