"""Building models from files, converting, importing, first logits; each measurement runs in a new process."""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from . import fresh
from .core import Row, in_child, in_turn, summarise

_MOST = 3  # rounds


def _random_weights(name: str) -> dict[str, torch.Tensor]:
    tensors = timm.create_model(name, num_classes=1000, device='meta').state_dict()
    return {k: torch.empty(v.shape).uniform_(0.5, 1).to(v.dtype) for k, v in tensors.items()}


def _compare(file: Path, rounds: int, candidates: dict[str, Callable[[], dict[str, float]]]) -> list[Row]:
    turns = tqdm(range(min(rounds, _MOST)), desc=file.stem, leave=False)
    runs = [{name: call() for name, call in candidates.items()} for _ in turns]
    times = {name: [run[name]['seconds'] for run in runs] for name in candidates}
    rows = summarise('loading', f'{file.stem}, {file.stat().st_size / 1e6:.0f} MB', times)
    for row in rows:
        row.memory = max(run[row.candidate]['memory'] for run in runs) or None
    return rows


def loading(rounds: int) -> list[Row]:
    """Build our coatnet_5 and timm's from a file; convert a checkpoint of timm's training script, and copy its file."""
    with tempfile.TemporaryDirectory() as folder:
        files = {'timm': Path(folder) / 'coatnet_5_224.safetensors', 'ours': Path(folder) / 'coatnet_5.safetensors'}
        for file in files.values():
            save_file(_random_weights(file.stem), file, metadata={'format': 'pt'})
        calls = {who: partial(in_child, fresh.load, name=file.stem, file=str(file)) for who, file in files.items()}
        rows = _compare(files['ours'], rounds, calls)
    with tempfile.TemporaryDirectory() as folder:
        file, arch = Path(folder) / 'coatnet_3.pth', 'coatnet_3_rw_224'
        args = argparse.Namespace(model=arch, num_classes=1000)
        torch.save(dict(state_dict=_random_weights(arch), arch=arch, args=args), file)
        calls = {'copying the file': fresh.copy, 'converting': fresh.convert}
        return rows + _compare(file, rounds, {name: partial(in_child, f, src=str(file)) for name, f in calls.items()})


def starting(rounds: int) -> list[Row]:
    """Imports, the command `list`, and the first logits of 8 images, from new processes."""
    rounds = min(rounds, _MOST)
    runs = [in_child(fresh.import_times) for _ in tqdm(range(rounds), desc='importing', leave=False)]
    rows = [row for name in runs[0] for row in summarise('starting', 'time', {name: [run[name] for run in runs]})]

    def first_logits(candidate: str) -> float:
        return in_child(fresh.first_logits, candidate=candidate, start=time.time())

    calls = {f'first logits, {name}': partial(first_logits, name) for name in ('timm', 'as created', 'optimised')}
    return rows + in_turn('starting', 'time', calls, rounds)
