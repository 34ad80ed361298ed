"""Whether a lower precision is faster: some CPUs have bfloat16, but multiply faster in float32."""

import functools
import time

import torch

_SIDE = 1024


def _seconds(dtype: torch.dtype) -> float:
    """Measure the time of a large matrix product."""
    a = torch.ones(_SIDE, _SIDE, dtype=dtype)
    best = float('inf')
    for _ in range(6):
        start = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - start)
    return best


@functools.cache
def multiplies_faster(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies matrices faster in a precision than in float32. The measurement takes 0.1 seconds."""
    return _seconds(dtype) < _seconds(torch.float32)
