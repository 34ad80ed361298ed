"""Building models from files, importing the package, converting; each measurement runs in a new process."""

import compileall
import statistics
import tempfile
from pathlib import Path
from types import ModuleType

import timm
import torch
from safetensors.torch import save_file
from tqdm import tqdm

import coatnet_zoo

from . import fresh
from .core import Row, in_child, summary


def _random_file(model: torch.nn.Module, file: Path) -> None:
    tensors = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in model.state_dict().items()}
    for tensor in tensors.values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1)
    save_file(tensors, file, metadata={'format': 'pt'})


def _rows(part: str, runs: list[dict[str, dict]], names: tuple[str, str], file_size: float) -> list[Row]:
    times = {name: [run[name]['seconds'] for run in runs] for name in names}
    rows = [summary(part, f'file {file_size / 1e6:.0f} MB', name, names[0], times) for name in names]
    for row in rows:
        row.memory = max(run[row.candidate]['memory'] for run in runs)
    return rows


def loading(rounds: int) -> list[Row]:
    """Build our CoAtNet-5 and timm's from a file, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f'{name}.safetensors' for name in ('coatnet_5_224', 'coatnet_5')}
        for name, file in files.items():
            _random_file(timm.create_model(name, device='meta'), file)
        runs = [
            {name: in_child(fresh.load, name=name, file=str(file)) for name, file in files.items()}
            for _ in tqdm(range(rounds), desc='loading', leave=False)
        ]
        return _rows('loading', runs, ('coatnet_5_224', 'coatnet_5'), files['coatnet_5'].stat().st_size)


def importing(rounds: int) -> tuple[float, float]:
    """Median milliseconds that importing timm takes, and that this package adds."""
    # pip compiles what it installs, except editable installations.
    compileall.compile_dir(Path(coatnet_zoo.__file__).parent, quiet=1)
    runs = [in_child(fresh.import_times) for _ in tqdm(range(rounds), desc='importing', leave=False)]
    return tuple(1e3 * statistics.median(run[key] for run in runs) for key in ('timm', 'ours'))


def converting(peer: ModuleType, rounds: int) -> list[Row]:
    """Convert a checkpoint of chinhsuanwu's coatnet_4, and copy its file for comparison.

    Args:
        peer: chinhsuanwu's module.
        rounds: How often the checkpoint is converted.
    """
    with tempfile.TemporaryDirectory() as folder:
        src = Path(folder) / 'coatnet_4.pth'
        torch.save(peer.coatnet_4().state_dict(), src)
        runs = []
        for i in tqdm(range(rounds), desc='converting', leave=False):
            result = in_child(fresh.convert, src=str(src), dst=str(Path(folder) / f'converted{i}'))
            copy = dict(seconds=result['copy'], memory=0.0)
            runs.append({'copying the file': copy, 'converting': result})
        return _rows('conversion', runs, ('copying the file', 'converting'), src.stat().st_size)
