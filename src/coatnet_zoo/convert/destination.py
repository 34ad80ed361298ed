"""Whether a conversion may write to a place: the mark of a conversion, and the folders that must not be replaced.

The mark is a field of config.json: a checksum of all files. timm ignores that field, and saves models without it.
A change to a file of the folder breaks the mark.
"""

import contextlib
import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, shown
from ..files import CARD, CONFIG, SAFETENSORS

_MARK = 'coatnet_zoo_conversion'
# Bytes. A config.json with labels of 100,000 classes has about 5 MB.
_LARGEST_CONFIG = 1 << 25
# Bytes that one thread reads of a file, and reads at a time.
_PART, _CHUNK = 1 << 26, 1 << 20


def check_destination(src: Path, dst: Path, overwrite: bool) -> None:
    """Refuse a place if a conversion may not write to it.

    Args:
        src: The checkpoint.
        dst: The folder to write.
        overwrite: Whether the folder of an earlier conversion may be replaced.

    Raises:
        CheckpointError: If `dst` is not the name of a folder, exists and may not be replaced, contains
            `src`, or cannot exist.
    """
    if dst.name in ('', '..'):
        raise CheckpointError(f"'{shown(dst)}' does not name a folder that can be made; give the new folder a name.")
    if any('\ud800' <= character <= '\udfff' for character in str(dst)):
        raise CheckpointError(f'{shown(dst)} is not UTF-8, so that safetensors cannot open files there; rename it.')
    try:
        if not os.path.lexists(dst):
            dst.lstat()  # raises a better error than "does not exist" for a name that cannot be
        elif not overwrite:
            raise CheckpointError(
                f'{shown(dst)} exists already; choose another folder or pass overwrite (--overwrite).'
            )
        else:
            if src.resolve().is_relative_to(dst.resolve()):
                raise CheckpointError(
                    f'{shown(src)} lies in {shown(dst)}, which would be replaced; choose another DST.'
                )
            _check_replaceable(dst)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as e:
        reason = getattr(e, 'strerror', None) or e
        raise CheckpointError(f'{shown(dst)} cannot be written: {reason}.') from e


def _check_replaceable(dst: Path) -> None:
    """Raise a `CheckpointError` unless a folder is exactly what an earlier conversion wrote."""
    if dst.is_symlink():
        raise CheckpointError(f'{shown(dst)} is a symbolic link, which is not replaced; name the folder itself.')
    if not dst.is_dir():
        raise CheckpointError(f'{shown(dst)} is not a folder, so it is not overwritten; choose another name.')
    strangers = sorted({p.name for p in dst.iterdir()} - {SAFETENSORS, CONFIG, CARD})
    if strangers:
        raise CheckpointError(
            f'{shown(dst)} has {shown(strangers[0])}, which no conversion wrote, so it is not overwritten; choose '
            'another folder.'
        )
    if not _is_marked(dst):
        raise CheckpointError(
            f'{shown(dst)} is not the folder of an earlier conversion, or was changed since, so it is not overwritten; '
            'choose another folder, or remove it yourself.'
        )


def mark(folder: Path, config: dict[str, Any]) -> None:
    """Mark a folder with model.safetensors, config.json and README.md as the result of a conversion.

    Args:
        folder: The folder.
        config: Content of config.json, which is written again with the mark.
    """
    marked = {**config, _MARK: _checksum(folder, config)}
    (folder / CONFIG).write_text(json.dumps(marked, indent=2, allow_nan=False), encoding='utf-8')


def _is_marked(folder: Path) -> bool:
    files = [folder / name for name in (CONFIG, SAFETENSORS, CARD)]
    if any(file.is_symlink() or not file.is_file() for file in files) or files[0].stat().st_size > _LARGEST_CONFIG:
        return False
    with contextlib.suppress(ValueError, RecursionError):
        config = json.loads(files[0].read_bytes())
        return isinstance(config, dict) and _MARK in config and config.pop(_MARK) == _checksum(folder, config)
    return False


def _checksum(folder: Path, config: dict[str, Any]) -> str:
    """The CRC-32 of configuration, card and weights: finds accidental changes, and is much faster than writing."""
    parts = [(folder / name, start) for name in (CARD, SAFETENSORS) for start in _starts(folder / name)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        sums = list(threads.map(_crc_of_part, parts))
    return f'crc32:{zlib.crc32(json.dumps([config, sums]).encode()):08x}'


def _starts(file: Path) -> range:
    return range(0, file.stat().st_size, _PART)


def _crc_of_part(part: tuple[Path, int]) -> int:
    file, start = part
    crc = 0
    with file.open('rb') as opened:
        opened.seek(start)
        for _ in range(_PART // _CHUNK):
            crc = zlib.crc32(opened.read(_CHUNK), crc)
    return crc
