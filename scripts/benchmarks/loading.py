"""Building models from files, converting, importing, first logits; each measurement runs in a new process."""

import argparse
import tempfile
import time
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from . import fresh
from .core import Row, in_child, summary


def _random_weights(name: str) -> dict[str, torch.Tensor]:
    tensors = timm.create_model(name, num_classes=1000, device='meta').state_dict()
    return {
        k: torch.empty(v.shape).uniform_(0.5, 1) if v.is_floating_point() else torch.zeros(v.shape, dtype=v.dtype)
        for k, v in tensors.items()
    }


def _rows(runs: list[dict[str, dict]], file: Path) -> list[Row]:
    times = {name: [run[name]['seconds'] for run in runs] for name in runs[0]}
    rows = [summary('loading', f'{file.stem}, {file.stat().st_size / 1e6:.0f} MB', name, times) for name in times]
    for row in rows:
        row.memory = max(run[row.candidate]['memory'] for run in runs) or None
    return rows


def loading(rounds: int) -> list[Row]:
    """Build our coatnet_5 and timm's from a file; convert a checkpoint of timm's training script, and copy its file."""
    rounds = min(rounds, 3)
    with tempfile.TemporaryDirectory() as folder:
        files = {'timm': Path(folder) / 'coatnet_5_224.safetensors', 'ours': Path(folder) / 'coatnet_5.safetensors'}
        for file in files.values():
            save_file(_random_weights(file.stem), file, metadata={'format': 'pt'})
        runs = [
            {who: in_child(fresh.load, name=file.stem, file=str(file)) for who, file in files.items()}
            for _ in tqdm(range(rounds), desc='loading', leave=False)
        ]
        rows = _rows(runs, files['ours'])
    with tempfile.TemporaryDirectory() as folder:
        src, arch = Path(folder) / 'coatnet_3.pth', 'coatnet_3_rw_224'
        arguments = argparse.Namespace(model=arch, num_classes=1000)
        torch.save(dict(state_dict=_random_weights(arch), arch=arch, args=arguments), src)
        runs = []
        for _ in tqdm(range(rounds), desc='converting', leave=False):
            result = in_child(fresh.convert, src=str(src), dst=str(Path(folder) / 'converted'))
            runs.append({'copying the file': dict(seconds=result['copy'], memory=0), 'converting': result})
        return rows + _rows(runs, src)


def starting(rounds: int, threads: int) -> list[Row]:
    """Imports, the command `list`, and the first logits of 8 images, from new processes."""
    rounds = min(rounds, 3)
    runs = [in_child(fresh.import_times) for _ in tqdm(range(rounds), desc='importing', leave=False)]
    times = {name: [run[name] for run in runs] for name in runs[0]}
    rows = [summary('starting', 'time', name, {name: values}) for name, values in times.items()]
    names = ('timm', 'as created', 'optimised')
    first = [
        {name: in_child(fresh.first_logits, candidate=name, threads=threads, start=time.time()) for name in names}
        for _ in tqdm(range(rounds), desc='first logits', leave=False)
    ]
    times = {f'first logits, {name}': [run[name]['seconds'] for run in first] for name in names}
    return rows + [summary('starting', 'time', name, times) for name in times]
