"""Measurements for fresh processes: importing, loading, converting, first logits.

Heavy imports are inside the functions.
"""

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .memory import peak_rss, reset_peak_rss

if TYPE_CHECKING:
    import torch

# By kind of model: the arguments of `optimize_for_inference`; int8 also needs images.
OPTIMIZED = {'optimised': {}, 'compiled': dict(compile=True), 'int8': dict(quantize='int8')}


def import_times() -> dict:
    """Seconds that importing timm takes, and seconds that this package adds."""
    start = time.perf_counter()
    import timm  # noqa: F401

    middle = time.perf_counter()
    import coatnet_zoo  # noqa: F401

    return dict(timm=middle - start, ours=time.perf_counter() - middle)


def load(name: str, file: str) -> dict:
    """Seconds and memory of building a model from a file and reading all its weights."""
    import timm

    import coatnet_zoo  # noqa: F401

    before = reset_peak_rss()
    start = time.perf_counter()
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=file))
    seconds = time.perf_counter() - start
    for p in model.parameters():
        p.sum()
    return dict(seconds=seconds, memory=peak_rss() - before)


def convert(src: str, dst: str) -> dict:
    """Seconds and memory of converting a checkpoint, and seconds of copying its file."""
    import coatnet_zoo

    copied = Path(dst).parent / 'copy'
    # The system allocates memory for the first file, and later files use that memory again. Content that the system
    # has not yet written to the disk would slow down the next file.
    for _ in range(2):
        os.sync()
        with open(src, 'rb') as f, copied.open('wb') as g:
            start = time.perf_counter()
            shutil.copyfileobj(f, g, 1 << 24)
            copy = time.perf_counter() - start
        copied.unlink()
    os.sync()
    before = reset_peak_rss()
    start = time.perf_counter()
    coatnet_zoo.convert_checkpoint(src, dst)
    return dict(seconds=time.perf_counter() - start, copy=copy, memory=peak_rss() - before)


def _images() -> 'torch.Tensor':
    import torch

    torch.manual_seed(0)
    return torch.randn(8, 3, 224, 224).to(memory_format=torch.channels_last)


def _model(kind: str, file: str, images: 'torch.Tensor') -> 'torch.nn.Module':
    import timm

    import coatnet_zoo

    if kind == 'saved':
        return coatnet_zoo.load_optimized(file)
    model = timm.create_model('coatnet_1', pretrained=True, pretrained_cfg_overlay=dict(file=file)).eval()
    if kind == 'eager':
        return model
    calibration = dict(calibration=images) if kind == 'int8' else {}
    return coatnet_zoo.optimize_for_inference(model, **OPTIMIZED[kind], **calibration)


def save(kind: str, file: str, folder: str) -> dict:
    """Save coatnet_1 as `save_optimized` does.

    Args:
        kind: One of `OPTIMIZED`.
        file: The weights.
        folder: The folder to write.
    """
    import coatnet_zoo

    coatnet_zoo.save_optimized(_model(kind, file, _images()), folder)
    return {}


def first_logits(kind: str, file: str, threads: int, cache: str, start: float) -> dict:
    """Seconds from a time to the logits of 8 images, and these logits.

    Args:
        kind: 'eager', 'saved', or one of `OPTIMIZED`.
        file: The weights of coatnet_1; or a folder of `save_optimized`.
        threads: Threads of torch.
        cache: Folder in which torch's compiler keeps what it has compiled.
        start: The time by `time.time()`.
    """
    os.environ['TORCHINDUCTOR_CACHE_DIR'] = cache
    import torch

    torch.set_num_threads(threads)
    images = _images()
    model = _model(kind, file, images)
    with torch.inference_mode():
        logits = model(images)
    return dict(seconds=time.time() - start, logits=logits.tolist())
