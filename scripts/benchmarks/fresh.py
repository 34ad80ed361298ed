"""What new processes measure: importing, listing, loading, converting, first logits. Functions import what is heavy."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path


def reset_peak_rss() -> float:
    """Reset the peak that `peak_rss` reports, on Linux. Returns the memory of this process in MB."""
    Path('/proc/self/clear_refs').write_text('5')
    return peak_rss()


def peak_rss() -> float:
    """Peak memory of this process in MB."""
    return 1.024e-3 * int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1])


def import_times() -> dict[str, float]:
    """Seconds that importing timm takes, seconds that this package adds, and seconds of `coatnet-zoo list`."""
    start = time.perf_counter()
    import timm  # noqa: F401

    middle = time.perf_counter()
    import coatnet_zoo  # noqa: F401

    end = time.perf_counter()
    subprocess.run([Path(sys.executable).with_name('coatnet-zoo'), 'list'], check=True, stdout=subprocess.DEVNULL)
    return {'import timm': middle - start, 'our import': end - middle, 'list': time.perf_counter() - end}


def load(name: str, file: str) -> dict[str, float]:
    """Seconds and memory of building a model from a file and reading all its weights."""
    import timm

    import coatnet_zoo  # noqa: F401

    before, start = reset_peak_rss(), time.perf_counter()
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=file))
    seconds = time.perf_counter() - start
    for p in model.parameters():
        p.sum()
    return dict(seconds=seconds, memory=peak_rss() - before)


def copy(src: str) -> dict[str, float]:
    """Seconds of copying a file."""
    copied = Path(src).with_name('copy')
    # The system allocates memory for the first file, and the second uses it again. Content that is not yet on the disk
    # would slow down the next file.
    for _ in range(2):
        os.sync()
        start = time.perf_counter()
        with open(src, 'rb') as f, copied.open('wb') as g:
            shutil.copyfileobj(f, g, 1 << 24)
        seconds = time.perf_counter() - start
        copied.unlink()
    return dict(seconds=seconds, memory=0)


def convert(src: str) -> dict[str, float]:
    """Seconds and memory of converting a checkpoint."""
    import coatnet_zoo

    folder = Path(src).with_name('converted')
    copy(src)
    os.sync()
    before, start = reset_peak_rss(), time.perf_counter()
    coatnet_zoo.convert_checkpoint(src, folder)
    seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    return dict(seconds=seconds, memory=peak_rss() - before)


def first_logits(candidate: str, start: float) -> float:
    """Seconds from a time by `time.time()` to the logits of 8 images of 224 pixels, with random weights."""
    import timm
    import torch

    import coatnet_zoo

    from .core import THREADS

    torch.set_num_threads(THREADS)
    model = timm.create_model('coatnet_1_rw_224' if candidate == 'timm' else 'coatnet_1').eval()
    if candidate == 'optimised':
        model = coatnet_zoo.optimize_for_inference(model)
    with torch.inference_mode():
        model.to(memory_format=torch.channels_last)(torch.zeros(8, 3, 224, 224))
    return time.time() - start
