"""Shared by all measurements: timing candidates alternately, writing rows, calling functions in child processes."""

import csv
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

ROOT = Path(__file__).parents[2]
_ROUND = 0.6  # seconds: the calls of a candidate in a round, as one short call says little


@dataclasses.dataclass
class Row:
    """One line of the result.

    Attributes:
        part: The table that the line belongs to.
        setting: Batch, size, precision.
        candidate: The measured call.
        reference: The candidate that this one is compared with, in the same rounds.
        seconds: Median of one call.
        spread: Half the distance between the quartiles, as a share of the median.
        ratio: Median over the rounds of the time of the reference divided by the time of the candidate; above 1 is
            faster.
        difference: Largest difference of the outputs from those of the first candidate, divided by the largest output.
        memory: Peak memory in MB, None where it was not measured.
    """

    part: str
    setting: str
    candidate: str
    reference: str
    seconds: float
    spread: float
    ratio: float
    difference: float | None = None
    memory: float | None = None

    def line(self) -> str:
        """The row for the terminal."""
        numbers = f'{1e3 * self.seconds:9.1f} ms ± {100 * self.spread:.0f} %, {self.ratio:.2f} times {self.reference}'
        return f'{self.part:10} {self.setting:20} {self.candidate:24} {numbers}'


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compare(
    part: str,
    setting: str,
    candidates: dict[str, Callable[[], torch.Tensor | None]],
    rounds: int,
    tolerance: float = 1e-4,
) -> list[Row]:
    """Time candidates alternately, all of them in every round, and compare all with the first.

    Args:
        part: The part that the rows name.
        setting: The setting that the rows name.
        candidates: Calls by name; the results of the calls are compared.
        rounds: How often each candidate has its turn, of several calls if they are short.
        tolerance: Largest allowed `Row.difference`.

    Raises:
        ValueError: If the output of a candidate differs from that of the first by more than the tolerance.
    """
    outputs: dict[str, torch.Tensor | None] = {}
    memory: dict[str, float | None] = {}
    for name, call in tqdm(candidates.items(), desc=f'{part} {setting}: warm-up', leave=False):
        for _ in range(2):
            outputs[name] = call()
        memory[name] = None
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            call()
            memory[name] = torch.cuda.max_memory_allocated() / 1e6
    times: dict[str, list[float]] = {name: [] for name in candidates}
    calls = max(1, round(_ROUND / max(map(seconds, candidates.values()))))
    for _ in tqdm(range(rounds), desc=f'{part} {setting}', leave=False):
        for name, call in candidates.items():
            times[name].append(statistics.median(seconds(call) for _ in range(calls)))
    rows = [summary(part, setting, name, times) for name in candidates]
    for row in rows:
        row.difference = difference(row.candidate, outputs, tolerance)
        row.memory = memory[row.candidate]
    return rows


def seconds(call: Callable[[], object]) -> float:
    """The time of a call."""
    synchronize()
    start = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - start


def summary(part: str, setting: str, name: str, times: dict[str, list[float]]) -> Row:
    """The row of a candidate, compared with the first.

    Args:
        part: See `Row`.
        setting: See `Row`.
        name: The candidate.
        times: Seconds by candidate, at least two, one for each round.
    """
    first = next(iter(times))
    low, median, high = statistics.quantiles(times[name], n=4, method='inclusive')
    ratio = statistics.median(a / b for a, b in zip(times[first], times[name], strict=True))
    return Row(part, setting, name, first, median, (high - low) / 2 / median, ratio)


def difference(name: str, outputs: dict[str, torch.Tensor | None], tolerance: float) -> float | None:
    """See `Row.difference`; None if a candidate has no output.

    Raises:
        ValueError: If the difference is above the tolerance.
    """
    first = next(iter(outputs))
    if outputs[first] is None or outputs[name] is None:
        return None
    expected = outputs[first].float()
    found = ((outputs[name].float() - expected).abs().max() / expected.abs().max()).item()
    if not found <= tolerance:
        raise ValueError(f'{name} differs from {first} by {found:.1e} of the largest output.')
    return found


def write(rows: list[Row], file: Path) -> None:
    """Write the rows as CSV."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open('w', newline='') as f:
        writer = csv.DictWriter(f, [field.name for field in dataclasses.fields(Row)])
        writer.writeheader()
        for row in rows:
            values = dataclasses.asdict(row)
            writer.writerow({k: f'{v:.4g}' if isinstance(v, float) else v for k, v in values.items()})


def read(file: Path) -> list[Row]:
    """The rows of a CSV file that `write` wrote."""
    numbers = {'seconds', 'spread', 'ratio', 'difference', 'memory'}
    with file.open(newline='') as f:
        return [
            Row(**{k: (float(v) if k in numbers else v) if v else None for k, v in row.items()})
            for row in csv.DictReader(f)
        ]


def in_child(function: Callable[..., dict], **arguments: Any) -> dict:
    """Call a function in a new process.

    Args:
        function: A function of a module; its result must fit into JSON.
        **arguments: Arguments; they must fit into JSON.

    Raises:
        RuntimeError: If the process fails.
    """
    module = function.__module__
    if module == '__main__':
        module = sys.modules['__main__'].__spec__.name
    command = [sys.executable, '-m', 'scripts.benchmarks.child', module, function.__name__, json.dumps(arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if result.returncode != 0:
        raise RuntimeError(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])
