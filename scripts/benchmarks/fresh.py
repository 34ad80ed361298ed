"""Measurements for fresh processes: importing, listing, loading, converting, first logits.

Heavy imports are inside the functions.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .memory import peak_rss, reset_peak_rss


def import_times() -> dict:
    """Seconds that importing timm takes, seconds that this package adds, and seconds of `coatnet-zoo list`."""
    start = time.perf_counter()
    import timm  # noqa: F401

    middle = time.perf_counter()
    import coatnet_zoo  # noqa: F401

    end = time.perf_counter()
    subprocess.run([Path(sys.executable).with_name('coatnet-zoo'), 'list'], check=True, stdout=subprocess.DEVNULL)
    return {'import timm': middle - start, 'our import': end - middle, 'list': time.perf_counter() - end}


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
    result = dict(seconds=time.perf_counter() - start, copy=copy, memory=peak_rss() - before)
    shutil.rmtree(dst)
    return result


def first_logits(candidate: str, threads: int, start: float) -> dict:
    """Seconds from a time by `time.time()` to the logits of 8 images of 224 pixels, with random weights."""
    import timm
    import torch

    import coatnet_zoo

    torch.set_num_threads(threads)
    model = timm.create_model('coatnet_1_rw_224' if candidate == 'timm' else 'coatnet_1').eval()
    if candidate == 'optimised':
        model = coatnet_zoo.optimize_for_inference(model)
    with torch.inference_mode():
        model.to(memory_format=torch.channels_last)(torch.zeros(8, 3, 224, 224))
    return dict(seconds=time.time() - start)
