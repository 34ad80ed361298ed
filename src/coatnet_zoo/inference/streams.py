"""Parts of a batch on threads of their own, one core each, instead of all cores on every operator.

Cores that share an operator wait for the slowest of them, hundreds of times per batch. Another program on one core
then delays all cores. Images are independent, so threads that compute separate images need to wait only once.
"""

import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from ..network import is_eager_inference

# Images that a thread computes at once. Larger parts are not faster, and leave less for a thread whose core is free.
_MOST = 4
# The share of the threads' time that must be used. If threads wait longer for the last parts, sharing operators wins.
_USED = 0.85

Function = Callable[[torch.Tensor], torch.Tensor]

_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def _forget_pools() -> None:
    global _lock
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_forget_pools)  # a forked process has only the thread that forked


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that compute with one core each."""
    with _lock:
        if threads not in _pools:
            pool = ThreadPoolExecutor(threads, thread_name_prefix='coatnet_zoo')
            everybody = threading.Barrier(threads)

            def prepare(_: int) -> None:
                torch.get_num_threads()  # takes the setting of the process, which would undo the next line later
                everybody.wait()  # so that every thread takes one call
                torch.set_num_threads(1)

            list(pool.map(prepare, range(threads)))
            torch.set_num_threads(threads)  # threads that begin later take the last setting of any thread
            _pools[threads] = pool
        return _pools[threads]


def images_at_once(batch: int, threads: int) -> int:
    """The size of the parts of a batch: the size with which the last thread ends first."""
    return min(range(1, _MOST + 1), key=lambda size: (_longest(batch, threads, size), -size))


def _longest(batch: int, threads: int, size: int) -> int:
    """The number of images that the thread with most images computes."""
    return size * math.ceil(math.ceil(batch / size) / threads)


def is_possible(x: torch.Tensor) -> bool:
    """Whether there are threads, and nothing in the calling thread watches the operators.

    Args:
        x: (B, C, H, W).
    """
    return (
        len(x) > 0 and torch.get_num_threads() > 1 and is_eager_inference(x) and not torch.autograd._profiler_enabled()
    )


def fills_threads(batch: int) -> bool:
    """Whether so many images keep all threads computing for most of the time."""
    threads = torch.get_num_threads()
    return batch >= max(threads, _USED * threads * _longest(batch, threads, images_at_once(batch, threads)))


def on_streams(function: Function, x: torch.Tensor) -> torch.Tensor:
    """function(x), computed on as many threads as `torch.get_num_threads()` says, one core each.

    Args:
        function: (B, C, H, W) -> (B, C', H', W'), each image separately.
        x: (B, C, H, W), a batch for which `is_possible` is true.
    """
    return torch.cat(_on_threads(function, x.split(images_at_once(len(x), torch.get_num_threads()))))


def on_one_thread(function: Function, x: torch.Tensor) -> torch.Tensor:
    """function(x), computed on one core. The arguments are those of `on_streams`."""
    return _on_threads(function, [x])[0]


def _on_threads(function: Function, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    in_inference_mode = torch.is_inference_mode_enabled()

    def compute(part: torch.Tensor) -> torch.Tensor:
        # These settings belong to a thread. Autocast does too, and is off in new threads.
        with torch.inference_mode(in_inference_mode), torch.no_grad():
            return function(part)

    return list(_pool(torch.get_num_threads()).map(compute, parts))
