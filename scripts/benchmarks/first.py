"""Seconds from the start of Python to the first logits of coatnet_1 in a new process, and in a second process."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from . import fresh
from .core import Row, difference, in_child, summary
from .inference import TOLERANCES, pair, precision_of

_COMPILED = {'compiled': 'ours compiled fp32', 'int8': 'ours compiled int8'}
_FIRST_ROUNDS = 2  # of the processes that find nothing compiled, which are slow


def _steps(folder: Path, i: int) -> Iterator[tuple[str, str, Path]]:
    """Name of the candidate, kind, and folder of the compiler's cache, of all processes of a round."""
    yield 'ours eager fp32', 'eager', folder / 'unused'
    yield 'ours optimised fp32', 'optimised', folder / 'unused'
    for kind, name in _COMPILED.items():
        if i < _FIRST_ROUNDS:
            yield f'{name}, first process', kind, folder / f'{kind}{i}'
        yield f'{name}, second process', kind, folder / f'{kind}0'


def first(rounds: int, threads: int) -> list[Row]:
    """Time all processes in turn: 8 images of 224 pixels."""
    times: dict[str, list[float]] = {}
    outputs: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / 'weights.safetensors'
        save_file(pair()[1].state_dict(), weights)
        for i in tqdm(range(rounds), desc='first', leave=False):
            for candidate, kind, cache in _steps(folder, i):
                arguments = dict(kind=kind, file=str(weights), threads=threads, cache=str(cache))
                result = in_child(fresh.first_logits, **arguments, start=time.time())
                times.setdefault(candidate, []).append(result['seconds'])
                outputs[candidate] = torch.tensor(result['logits'])
    rows = [summary('first', 'batch 8', candidate, 'ours eager fp32', times) for candidate in times]
    for row in rows:
        row.difference = difference(row.candidate, outputs, TOLERANCES[precision_of(row.candidate)])
    return rows
