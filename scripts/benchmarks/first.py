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
_FIRST_ROUNDS = 2  # of the processes that compile, which are slow
_WEIGHTS = 'weights.safetensors'


def _steps(folder: Path, i: int) -> Iterator[tuple[str, str, Path, Path]]:
    """Name of the candidate, kind, weights, and folder of the compiler's cache, of all processes of a round."""
    weights = folder / _WEIGHTS
    yield 'ours eager fp32', 'eager', weights, folder / 'unused'
    yield 'ours optimised fp32', 'optimised', weights, folder / 'unused'
    for kind, name in _COMPILED.items():
        if i < _FIRST_ROUNDS:
            yield f'{name}, first process', kind, weights, folder / f'{kind}{i}'
            yield f'{name}, second process', kind, weights, folder / f'{kind}{i}'
        yield f'{name}, saved', 'saved', folder / f'saved_{kind}', folder / 'unused'


def first(rounds: int, threads: int) -> list[Row]:
    """Time all processes in turn: 8 images of 224 pixels."""
    times: dict[str, list[float]] = {}
    outputs: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(pair()[1].state_dict(), folder / _WEIGHTS)
        for kind in _COMPILED:
            in_child(fresh.save, kind=kind, file=str(folder / _WEIGHTS), folder=str(folder / f'saved_{kind}'))
        for i in tqdm(range(rounds), desc='first', leave=False):
            for candidate, kind, file, cache in _steps(folder, i):
                arguments = dict(kind=kind, file=str(file), threads=threads, cache=str(cache))
                result = in_child(fresh.first_logits, **arguments, start=time.time())
                times.setdefault(candidate, []).append(result['seconds'])
                outputs[candidate] = torch.tensor(result['logits'])
    rows = [summary('first', 'batch 8', candidate, 'ours eager fp32', times) for candidate in times]
    for row in rows:
        row.difference = difference(row.candidate, outputs, TOLERANCES[precision_of(row.candidate)])
    return rows
