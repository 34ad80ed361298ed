"""Profiles of a call by torch's profiler: the share of each kind of operator in the time, and the peak memory."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

PRODUCTS, DEPTHWISE, ATTENTION, REST = 'products', 'depthwise', 'attention', 'rest'


def _kind(name: str, shapes: list[list[int]]) -> str:
    name = name.lower()
    if 'attention' in name:
        return ATTENTION
    if 'conv' in name and 'convert' not in name:
        # The weight of a depthwise convolution has one input channel a group.
        return DEPTHWISE if any(len(s) == 4 and s[1] == 1 and s[2] > 1 and s[0] > 1 for s in shapes) else PRODUCTS
    return PRODUCTS if any(op in name for op in ('linear', 'mm', 'gemm')) else REST


def shares(call: Callable[[], object]) -> str:
    """Profile one call: the time of the GPU if the GPU computes anything, otherwise the time of the CPU.

    Args:
        call: The call; it must have run before.

    Returns:
        Shares of the time of all operators, e.g. `products 70 %, depthwise 10 %, attention 15 %, rest 5 %`.
    """
    gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with profile(activities=[ProfilerActivity.CPU, *gpu], record_shapes=True) as record:
        call()
    events = record.key_averages(group_by_input_shape=True)
    on_gpu = any(event.self_device_time_total for event in events)
    times = dict.fromkeys((PRODUCTS, DEPTHWISE, ATTENTION, REST), 0.0)
    for event in events:
        times[_kind(event.key, event.input_shapes)] += (
            event.self_device_time_total if on_gpu else event.self_cpu_time_total
        )
    total = sum(times.values())
    return ', '.join(f'{name} {100 * time / total:.0f} %' for name, time in times.items())


def allocated_peak(call: Callable[[], object]) -> float:
    """Most memory that a call has allocated at one time on the CPU, in MB, above the memory before the call.

    Counted are the requests to torch's allocator, as on GPUs. The memory of the process also has gaps between blocks,
    which differ by some percent from run to run.

    Args:
        call: The call; it must have run before.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    events = (event for event in record.profiler.kineto_results.events() if event.name() == '[memory]')
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak / 1e6
