"""Peak memory of a process, on Linux."""

import re
from collections.abc import Callable
from pathlib import Path


def reset_peak_rss() -> float:
    """Reset the peak that `peak_rss` reports. Returns the memory of this process in MB."""
    Path('/proc/self/clear_refs').write_text('5')
    return peak_rss()


def peak_rss() -> float:
    """Peak memory of this process in MB."""
    return 1.024e-3 * int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1])


def forward_memory(build: Callable, threads: int) -> dict:
    """Peak memory in MB of images through a model, weights included, above the memory of the process before.

    Args:
        build: Makes the model and the images.
        threads: Threads of torch.
    """
    import torch

    torch.set_num_threads(threads)
    before = reset_peak_rss()
    model, images = build()
    reset_peak_rss()  # building takes more memory than it leaves
    with torch.inference_mode():
        for _ in range(2):
            model(images)
    return dict(memory=peak_rss() - before)
