"""What the parts of benchmark.py share: timing candidates in turn, and reading memory."""

import csv
import dataclasses
import json
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm


@dataclasses.dataclass
class Row:
    """One line of the result.

    Attributes:
        part: Which table it belongs to.
        setting: Batch, size, precision.
        candidate: What was measured.
        reference: What it is compared with, in the same rounds.
        seconds: Median of one call.
        spread: Half the distance between the quartiles, as a share of the median.
        ratio: Median over the rounds of the reference's time by this one's; above 1 is faster.
        speed: The same with the time of the first candidate of the table.
        difference: Largest difference of the outputs from the first candidate's, by its largest output.
        memory: Peak memory in MB, None where it was not measured.
        profile: What the time is spent on, see `bench_profile`; None where it was not looked at.
    """

    part: str
    setting: str
    candidate: str
    reference: str
    seconds: float
    spread: float
    ratio: float
    speed: float
    difference: float | None = None
    memory: float | None = None
    profile: str | None = None


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compare(
    part: str,
    setting: str,
    candidates: dict[str, Callable[[], torch.Tensor | None]],
    rounds: int,
    tolerance: dict[str, float] | None = None,
    references: dict[str, list[str]] | None = None,
) -> list[Row]:
    """Time candidates in turn, all of them in every round.

    Args:
        part: Goes into the rows.
        setting: Likewise.
        candidates: What to call; what they return is compared.
        rounds: How often.
        tolerance: Largest `Row.difference` by candidate; 1e-4 if nothing is said.
        references: By candidate, what to compare its time with, the fastest of several; the first candidate if
            nothing is said.

    Raises:
        ValueError: If a candidate's output differs from the reference's by more than its tolerance.
    """
    first = next(iter(candidates))
    outputs: dict[str, torch.Tensor | None] = {}
    memory: dict[str, float | None] = {}
    for name, call in tqdm(candidates.items(), desc=f'{part} {setting}: warm-up', leave=False):
        for _ in range(2):
            outputs[name] = call()
        synchronize()
        memory[name] = None
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            call()
            memory[name] = torch.cuda.max_memory_allocated() / 1e6
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in tqdm(range(rounds), desc=f'{part} {setting}', leave=False):
        for name, call in candidates.items():
            synchronize()
            start = time.perf_counter()
            call()
            synchronize()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = []
    for name in candidates:
        reference = min((references or {}).get(name, [first]), key=medians.get)
        expected, actual = outputs[first], outputs[name]
        difference = None
        if expected is not None and actual is not None:
            expected = expected.float()
            difference = ((actual.float() - expected).abs().max() / expected.abs().max()).item()
            if difference > (tolerance or {}).get(name, 1e-4):
                raise ValueError(f'{name} differs from {first} by {difference:.1e} of the largest output.')
        low, median, high = statistics.quantiles(times[name], n=4, method='inclusive')
        ratio, speed = (
            statistics.median(a / b for a, b in zip(times[other], times[name], strict=True))
            for other in (reference, first)
        )
        spread = (high - low) / 2 / median
        rows.append(Row(part, setting, name, reference, median, spread, ratio, speed, difference, memory[name]))
    return rows


def write(rows: list[Row], file: Path) -> None:
    """Write the rows as CSV."""
    with file.open('w', newline='') as f:
        writer = csv.DictWriter(f, [field.name for field in dataclasses.fields(Row)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in rows)


def reset_peak_rss() -> float:
    """Have `peak_rss` count from now on, where the system can (Linux); the memory of this process in MB."""
    if sys.platform == 'linux':
        Path('/proc/self/clear_refs').write_text('5')
    return peak_rss()


def peak_rss() -> float:
    """Peak memory of this process in MB."""
    if sys.platform == 'linux':
        status = Path('/proc/self/status').read_text()
        return 1.024e-3 * int(re.search(r'VmHWM:\s+(\d+)', status)[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1e-6 if sys.platform == 'darwin' else 1.024e-3)


def in_child(code: str) -> dict:
    """Run Python code in a process of its own, which prints a JSON object last."""
    prefix = 'import json, sys, time\nfrom bench_core import peak_rss, reset_peak_rss\n'
    command = [sys.executable, '-c', prefix + code]
    # A child begins with the peak memory of the process that it was forked from, so a small one forks it.
    fork = f'import subprocess, sys; sys.exit(subprocess.run({command!r}).returncode)'
    result = subprocess.run(
        [sys.executable, '-S', '-c', fork], capture_output=True, text=True, cwd=sys.path[0], check=False
    )
    if result.returncode != 0:
        raise RuntimeError(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])
