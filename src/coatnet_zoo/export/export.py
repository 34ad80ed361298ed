"""Exporting a model: writing a folder, and comparing the file with the model before the folder appears."""

import copy
import errno
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers import to_2tuple
from timm.models import reparameterize_model
from torch import nn

from coatnet_zoo_runtime import RECORD_FILE, ExportedModel, load_exported, sha256_of

from ..errors import ExportError, first_line, shown
from ..files import write_folder
from ..images import data_config, known_labels
from ..network import CoAtNet
from .calibration import read_images
from .formats import Format, Task
from .positions import keep_tables
from .request import check_free, check_request

# Largest difference of float32 logits that rounding can cause, relative to the largest logit.
_TOLERANCE = 1e-3
_LITTLE = 20_000_000  # bytes that may be free on a disk too full for the next part of a file


@dataclass(frozen=True)
class Comparison:
    """How the logits of a runtime compare with the logits of torch."""

    difference: float  # largest absolute difference of a logit
    largest: float  # largest absolute logit of torch
    agreement: int  # number of images with the same class


@dataclass(frozen=True)
class Exported:
    """The result of an export, and how the exported file compares with the model."""

    file: Path  # that the runtime opens; `preprocessing.json` is in the same folder
    runtime: str
    images: int  # number of calibration images; 0 without 8-bit integers
    comparison: Comparison  # on the calibration images or, without 8-bit integers, on noise of several sizes


def export_model(
    model: CoAtNet, out: str | os.PathLike, format: str, *, img_size: int | tuple[int, int] | None = None,
    dynamic_batch: bool = False, dynamic_size: bool = False, int8: str | os.PathLike | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Exported:  # fmt: skip
    """Export a model for another runtime, and compare the exported file with the model.

    The folder gets `model.onnx`, `model.xml` with `model.bin`, or `model.pt2`; and `preprocessing.json`, whose content
    is also in the metadata of the file. The folder appears complete or not at all. The runtime takes `images`, float32
    (B, in_chans, H, W), and gives `logits`, float32 (B, num_classes).

    Args:
        model: A CoAtNet on any device and in any precision, not from `optimize_for_inference`. The model
            does not change: a copy in float32 and in evaluation mode is exported.
        out: Folder to write. The folder must not exist.
        format: 'onnx', 'openvino' or 'pt2', which is a package of torch's AOTInductor for this machine's processor.
        img_size: Height and width in pixels, or one number for both. Default: the size of the model. With
            `dynamic_size`, the size in `preprocessing.json`.
        dynamic_batch: Take batches of any size instead of one image.
        dynamic_size: Take images of any height and width from 33 pixels up; not for 'pt2'.
        int8: Folder with a few dozen images like the later images, for the calibration of 8-bit integers.
        progress: A function that takes a description of the current step.

    Raises:
        ExportError: If the format does not exist or its extra is not installed, if `out` exists or cannot be written,
            if an image or `img_size` is bad, if the model is from `optimize_for_inference`, has no classifier or does
            not suit the format, or if the runtime computes other logits than the model.
    """
    chosen = check_request(out, format, img_size, dynamic_size, int8)
    _check_model(model, dynamic_size)
    height, width = to_2tuple(img_size or model.img_size)
    dynamic = {0: 'batch'} if dynamic_batch else {}
    dynamic |= {2: 'height', 3: 'width'} if dynamic_size else {}
    images = []
    try:
        config = data_config(model, (height, width))
        if int8 is not None:
            progress('reading images')
            images = read_images(int8, config)
        eager = copy.deepcopy(model).eval().cpu().float()
        network = reparameterize_model(eager)
        if not dynamic_size:
            network.set_input_size((height, width))
            keep_tables(network)
    except ValueError as e:  # a bad configuration or size; the messages are for users
        raise ExportError(str(e)) from e
    record = json.dumps(_record(model, config, dynamic, format, int8 is not None), ensure_ascii=False)
    # torch.export would make a dimension of length 1 a constant.
    example = torch.zeros(2 if dynamic_batch else 1, model.in_chans, height, width)
    task = Task(network, example, dynamic, images, record)
    batches = images or _noise(model.in_chans, height, width, dynamic)
    compared: list[Comparison] = []

    def write(folder: Path) -> None:
        # Exporters abort the process on a full disk, or leave half a file.
        copies = 3 if images else 1.5
        if shutil.disk_usage(folder).free < copies * sum(p.nbytes for p in network.parameters()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        compared.append(_write_and_compare(chosen, task, eager, batches, folder, progress))

    try:
        with torch.no_grad():
            write_folder(Path(out), write, check_free)
    except OSError as e:
        raise ExportError(f'{shown(out)} cannot be written: {e.strerror or e}.') from e
    return Exported(Path(out) / chosen.file, chosen.runtime, len(images), *compared)


def _check_model(model: CoAtNet, dynamic_size: bool) -> None:
    if type(model) is not CoAtNet:
        raise ExportError(
            'Only a complete CoAtNet can be exported, not a part nor one from optimize_for_inference; export the model '
            'that it was made from.'
        )
    if not model.num_classes or not model.global_pool:
        raise ExportError('The model has no classifier and so no logits to export; load a model with a classifier.')
    if dynamic_size and model.cfg.attn_window:
        # A graph cannot choose between one window and several windows.
        raise ExportError('Windowed attention is exported for one size; export one folder for each img_size.')


def _record(model: CoAtNet, config: dict[str, Any], dynamic: dict[int, str], format: str, int8: bool) -> dict[str, Any]:
    """The facts that users of an exported model need."""
    name = '.'.join(filter(None, (model.pretrained_cfg.get('architecture'), model.pretrained_cfg.get('tag'))))
    return dict(model=name, format=format, **config, dynamic=[*dynamic.values()], labels=known_labels(model), int8=int8)


def _write_record(record: str, folder: Path) -> None:
    """Write the record beside the files of the model, with the SHA-256 of each."""
    files = {file.name: sha256_of(file) for file in sorted(folder.iterdir())}
    text = json.dumps({**json.loads(record), 'files': files}, indent=1, ensure_ascii=False)
    (folder / RECORD_FILE).write_text(f'{text}\n', encoding='utf-8')


def _noise(channels: int, height: int, width: int, dynamic: dict[int, str]) -> list[np.ndarray]:
    """Make batches of noise in some of the shapes that an exported model takes."""
    random = np.random.default_rng(0)
    sizes = [(height, width), (height + 37, width + 5), (48, 80)] if 2 in dynamic else [(height, width)]
    counts = (1, 3) if 0 in dynamic else (1,)
    return [random.standard_normal((n, channels, *size), dtype=np.float32) for size in sizes for n in counts]


def _write_and_compare(
    chosen: Format, task: Task, eager: CoAtNet, batches: list[np.ndarray], folder: Path, progress: Callable[[str], None]
) -> Comparison:
    progress(f'writing {chosen.file}' + (f' in 8-bit integers, from {len(task.images)} images' if task.images else ''))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            chosen.write(task, folder / chosen.file)
        _write_record(task.record, folder)
        progress(f'comparing {chosen.runtime} with torch')
        comparison = _compare(load_exported(folder), eager, batches)
    except OSError:
        raise
    except Exception as e:  # exporters and runtimes raise most kinds of exceptions
        places = (folder, tempfile.gettempdir())  # compilers write to the second
        full = os.strerror(errno.ENOSPC)
        if full in str(e) or min(shutil.disk_usage(place).free for place in places) < _LITTLE:
            raise OSError(errno.ENOSPC, full) from e
        raise ExportError(f'{chosen.runtime} cannot run this model ({first_line(e)}).') from e
    if not task.images and not comparison.difference <= _TOLERANCE * comparison.largest:
        raise ExportError(
            f'Logits of {chosen.runtime} differ from those of torch by {comparison.difference:.1e}, where the largest '
            f'logit is {comparison.largest:.1e}, so nothing was written.'
        )
    return comparison


@torch.no_grad()
def _compare(exported: ExportedModel, eager: nn.Module, batches: Iterable[np.ndarray]) -> Comparison:
    """Compare an exported model with the original model, in evaluation mode on the CPU, on arrays (B, C, H, W)."""
    rows = [(exported(images), eager(torch.from_numpy(images)).numpy()) for images in batches]
    theirs, ours = (np.concatenate(logits) for logits in zip(*rows, strict=True))
    same = theirs.argmax(1) == ours.argmax(1)
    return Comparison(float(np.abs(theirs - ours).max()), float(np.abs(ours).max()), int(same.sum()))
