"""Whether a lower precision is worth computing in: some CPUs have bfloat16, but multiply in float32 faster."""

import functools
import time

import torch

_SIDE = 1024


def _seconds(dtype: torch.dtype) -> float:
    """Time of a large matrix product."""
    a = torch.ones(_SIDE, _SIDE, dtype=dtype)
    best = float('inf')
    for _ in range(6):
        start = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - start)
    return best


@functools.cache
def multiplies_faster(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies matrices faster in a precision than in float32; measured, in a tenth of a second."""
    return _seconds(dtype) < _seconds(torch.float32)
