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

from .fresh import peak_rss, reset_peak_rss

ROOT = Path(__file__).parents[2]
THREADS = 2
_ROUND = 0.6  # seconds: the calls of a candidate in a round, as one short call says little
_CHILD = """
import importlib, json, sys
function = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
print(json.dumps(function(**json.loads(sys.argv[3]))))
"""


@dataclasses.dataclass
class Row:
    """One line of the result, of a candidate that is compared with another, the reference, in the same rounds."""

    part: str  # the table that the line belongs to
    setting: str  # batch, size, precision
    candidate: str
    reference: str
    seconds: float  # median of one call
    spread: float  # half the distance between the quartiles, as a share of the median
    ratio: float  # median over the rounds of the reference's time divided by the candidate's
    difference: float | None = None  # largest difference from the reference's output, divided by the largest output
    memory: float | None = None  # peak in MB; on a GPU, above that before the call

    def line(self) -> str:
        """The row for the terminal."""
        numbers = f'{1e3 * self.seconds:9.1f} ms ± {100 * self.spread:.0f} %, {self.ratio:.2f} times {self.reference}'
        memory = '' if self.memory is None else f', {self.memory:,.0f} MB'
        return f'{self.part:10} {self.setting:20} {self.candidate:24} {numbers}{memory}'


def compare(
    part: str, setting: str, candidates: dict[str, Callable[[], torch.Tensor]], rounds: int,
    tolerance: float | None = 1e-4,
) -> list[Row]:  # fmt: skip
    """Time candidates alternately, in every round several calls if they are short, and compare all with the first.

    Raises a ValueError if a `Row.difference` is above the tolerance, which is None if candidates compute other things.
    """
    outputs: dict[str, torch.Tensor] = {}
    memory: dict[str, float | None] = {}
    for name, call in tqdm(candidates.items(), desc=f'{part} {setting}: warm-up', leave=False):
        for _ in range(2):
            outputs[name] = call()
        memory[name] = None
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            memory[name] = (torch.cuda.max_memory_allocated() - before) / 1e6
    times: dict[str, list[float]] = {name: [] for name in candidates}
    calls = max(1, round(_ROUND / max(map(seconds, candidates.values()))))
    for _ in tqdm(range(rounds), desc=f'{part} {setting}', leave=False):
        for name, call in candidates.items():
            times[name].append(statistics.median(seconds(call) for _ in range(calls)))
    rows = summarise(part, setting, times)
    for row in rows:
        row.difference = difference(row.candidate, outputs, tolerance) if tolerance else None
        row.memory = memory[row.candidate]
    return rows


def seconds(call: Callable[[], object]) -> float:
    """The time of a call, with what it leaves to the GPU."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def in_turn(part: str, setting: str, calls: dict[str, Callable[[], float]], rounds: int) -> list[Row]:
    """Rows of calls that return seconds, each called once in every round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in tqdm(range(rounds), desc=f'{part} {setting}', leave=False):
        for name, call in calls.items():
            times[name].append(call())
    return summarise(part, setting, times)


def summarise(part: str, setting: str, times: dict[str, list[float]]) -> list[Row]:
    """A row for each candidate, compared with the first. It takes the seconds of at least two rounds, by candidate."""
    first, rows = next(iter(times)), []
    for name, own in times.items():
        low, median, high = statistics.quantiles(own, n=4, method='inclusive')
        ratio = statistics.median(a / b for a, b in zip(times[first], own, strict=True))
        rows.append(Row(part, setting, name, first, median, (high - low) / 2 / median, ratio))
    return rows


def difference(name: str, outputs: dict[str, torch.Tensor], tolerance: float) -> float:
    """See `Row.difference`. Raises a ValueError if it is above the tolerance."""
    first = next(iter(outputs))
    expected = outputs[first].float()
    found = ((outputs[name].float() - expected).abs().max() / expected.abs().max()).item()
    if not found <= tolerance:
        raise ValueError(f'{name} differs from {first} by {found:.1e} of the largest output.')
    return found


def write(rows: list[Row], file: Path) -> None:
    """Write the rows as CSV."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open('w', newline='') as f:
        writer = csv.writer(f)
        writer.writerow(field.name for field in dataclasses.fields(Row))
        for row in rows:
            writer.writerow(f'{v:.4g}' if isinstance(v, float) else v for v in dataclasses.astuple(row))


def read(file: Path) -> list[Row]:
    """The rows of a CSV file that `write` wrote; none if it does not exist."""
    _, *lines = csv.reader(file.read_text().splitlines() if file.exists() else [''])
    return [Row(*line[:4], *(float(value) if value else None for value in line[4:])) for line in lines]


def in_child(function: Callable[..., Any], **arguments: Any) -> Any:
    """Call a function of a module in a new process, which imports nothing heavy before. All data must fit into JSON."""
    module = function.__module__ if function.__module__ != '__main__' else sys.modules['__main__'].__spec__.name
    command = [sys.executable, '-c', _CHILD, module, function.__name__, json.dumps(arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if result.returncode != 0:
        raise RuntimeError(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def forward_memory(build: Callable[[], tuple[torch.nn.Module, torch.Tensor]]) -> float:
    """Peak memory in MB of a model and images that `build` makes, above the memory of the process before."""
    torch.set_num_threads(THREADS)
    before = reset_peak_rss()
    model, images = build()
    reset_peak_rss()  # building takes more memory than it leaves
    with torch.inference_mode():
        for _ in range(2):
            model(images)
    return peak_rss() - before
