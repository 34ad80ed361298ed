"""Whether a lower precision is slower: some CPUs have bfloat16 or float16, but multiply faster in float32."""

import functools
import time

import torch

_SIDE = 512
# A product in a precision that the CPU does not have takes longer than this, so it is computed only once.
_ENOUGH = 0.05  # seconds


def _seconds(dtype: torch.dtype) -> float:
    """Measure the time of a matrix product: the best time of all products that begin within 0.05 seconds."""
    a = torch.ones(_SIDE, _SIDE, dtype=dtype)
    times: list[float] = []
    while sum(times) < _ENOUGH:
        start = time.perf_counter()
        torch.mm(a, a)
        times.append(time.perf_counter() - start)
    return min(times)


@functools.cache
def multiplies_slower(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies matrices slower in a precision than in float32.

    The measurement takes 0.1 seconds, and 0.3 seconds if the CPU does not have the precision.
    """
    return _seconds(dtype) > _seconds(torch.float32)
