"""Refusing requests that fail for every model."""

import importlib
import os
from pathlib import Path

from timm.layers import to_2tuple

from ..errors import ExportError, first_line, shown
from .formats import FORMATS, Format

# Pixels. Attention on images of 4096 pixels needs more memory than machines have.
_SMALLEST, _LARGEST = 32, 4096


def check_request(
    out: str | os.PathLike, format: str, img_size: int | tuple[int, int] | None, dynamic_size: bool,
    int8: str | os.PathLike | None,
) -> Format:  # fmt: skip
    """Refuse requests that fail for every model, before the slow steps.

    Raises:
        ExportError: See `export_model`.
    """
    if format not in FORMATS:
        raise ExportError(f"There is no format '{shown(format)}'; choose one of {', '.join(FORMATS)}.")
    chosen = FORMATS[format]
    if format == 'pt2' and (int8 is not None or dynamic_size):
        raise ExportError('pt2 is for one size, in float32; export to onnx or openvino, or one folder for each size.')
    for side in () if img_size is None else to_2tuple(img_size):
        if not _SMALLEST <= side <= _LARGEST:
            raise ExportError(f'Images must have {_SMALLEST} to {_LARGEST} pixels on each side, not {side}.')
    for module in chosen.modules:
        try:
            importlib.import_module(module)
        except ImportError as e:
            raise ExportError(
                f"The format {format} needs {module}: pip install 'coatnet-zoo[{chosen.extra}]' ({first_line(e)})."
            ) from e
    _check_out(Path(out))
    return chosen


def _check_out(out: Path) -> None:
    if out.suffix in {Path(f.file).suffix for f in FORMATS.values()}:
        raise ExportError(f'{shown(out)} must be a folder for the model and its other files; leave out {out.suffix}.')
    check_free(out)
    parent = next(parent for parent in out.absolute().parents if os.path.lexists(parent))
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ExportError(f'{shown(out)} cannot be written: {parent} is not a writable folder.')


def check_free(out: Path) -> None:
    """Raise an `ExportError` if a place exists."""
    if os.path.lexists(out):
        raise ExportError(f'{shown(out)} already exists; remove it or choose another folder.')
