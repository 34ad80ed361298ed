"""Building models from files, importing the package, converting: each in a process of its own."""

import compileall
import statistics
import tempfile
from pathlib import Path
from types import ModuleType

import timm
import torch
from bench_core import Row, in_child
from safetensors.torch import save_file
from tqdm import tqdm

import coatnet_zoo

_LOAD = """
import timm, torch
import coatnet_zoo
before = reset_peak_rss()
start = time.perf_counter()
model = timm.create_model({name!r}, pretrained=True, pretrained_cfg_overlay=dict(file={file!r}))
seconds = time.perf_counter() - start
for p in model.parameters():
    p.sum()
print(json.dumps(dict(seconds=seconds, memory=peak_rss() - before)))
"""
_IMPORT = """
start = time.perf_counter()
import timm
middle = time.perf_counter()
import coatnet_zoo
print(json.dumps(dict(timm=middle - start, ours=time.perf_counter() - middle)))
"""
_CONVERT = """
import os
import shutil
from pathlib import Path
from types import ModuleType
import coatnet_zoo
src, dst = Path({src!r}), Path({dst!r})
copied = dst.parent / 'copy'
# The first file that is written pays for memory that those after it use again. And what the system has not written to
# the disk yet would slow down the next.
for _ in range(2):
    os.sync()
    with src.open('rb') as f, copied.open('wb') as g:
        start = time.perf_counter()
        shutil.copyfileobj(f, g, 1 << 24)
        copy = time.perf_counter() - start
    copied.unlink()
os.sync()
before = reset_peak_rss()
start = time.perf_counter()
coatnet_zoo.convert_checkpoint(src, dst)
print(json.dumps(dict(seconds=time.perf_counter() - start, copy=copy, memory=peak_rss() - before)))
"""


def _random_file(model: torch.nn.Module, file: Path) -> None:
    tensors = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in model.state_dict().items()}
    for tensor in tensors.values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1)
    save_file(tensors, file, metadata={'format': 'pt'})


def _rows(part: str, runs: list[dict[str, dict]], names: tuple[str, str], file_size: float) -> list[Row]:
    rows = []
    for name in names:
        seconds = [run[name]['seconds'] for run in runs]
        median = statistics.median(seconds)
        low, _, high = statistics.quantiles(seconds, n=4)
        ratio = statistics.median(run[names[0]]['seconds'] / run[name]['seconds'] for run in runs)
        memory = max(run[name]['memory'] for run in runs)
        setting = f'file {file_size / 1e6:.0f} MB'
        rows.append(Row(part, setting, name, names[0], median, (high - low) / 2 / median, ratio, ratio, None, memory))
    return rows


def loading(rounds: int) -> list[Row]:
    """Build the CoAtNet-5 from a file, ours and timm's, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f'{name}.safetensors' for name in ('coatnet_5_224', 'coatnet_5')}
        for name, file in files.items():
            _random_file(timm.create_model(name, device='meta'), file)
        runs = [
            {name: in_child(_LOAD.format(name=name, file=str(file))) for name, file in files.items()}
            for _ in tqdm(range(rounds), desc='loading', leave=False)
        ]
        return _rows('loading', runs, ('coatnet_5_224', 'coatnet_5'), files['coatnet_5'].stat().st_size)


def importing(rounds: int) -> tuple[float, float]:
    """Milliseconds that importing timm takes, and what this package adds; medians."""
    # As pip does with what it installs, but for editable installations.
    compileall.compile_dir(Path(coatnet_zoo.__file__).parent, quiet=1)
    runs = [in_child(_IMPORT) for _ in tqdm(range(rounds), desc='importing', leave=False)]
    return tuple(1e3 * statistics.median(run[key] for run in runs) for key in ('timm', 'ours'))


def converting(peer: ModuleType, rounds: int) -> list[Row]:
    """Convert a checkpoint of chinhsuanwu's coatnet_4, beside copying its file.

    Args:
        peer: chinhsuanwu's module.
        rounds: How often.
    """
    with tempfile.TemporaryDirectory() as folder:
        src = Path(folder) / 'coatnet_4.pth'
        torch.save(peer.coatnet_4().state_dict(), src)
        runs = []
        for i in tqdm(range(rounds), desc='converting', leave=False):
            result = in_child(_CONVERT.format(src=str(src), dst=str(Path(folder) / f'converted{i}')))
            copy = dict(seconds=result['copy'], memory=0.0)
            runs.append({'copying the file': copy, 'converting': result})
        return _rows('conversion', runs, ('copying the file', 'converting'), src.stat().st_size)
