"""coatnet_1 in the engines that it is exported to, beside timm's and ours in torch, each in a process of its own."""

import contextlib
import dataclasses
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from tqdm import tqdm

from .core import THREADS, Row, compare, difference, in_child, seconds, summarise
from .figures import ENGINES
from .inference import candidates, pair, random_images

MODULES = {'openvino': ('openvino', 'nncf'), 'onnx': ('onnxscript', 'onnxruntime')}  # by format
Call = Callable[[torch.Tensor], torch.Tensor]
_BATCHES = (1, 8)
_SECONDS = 2.0  # of every setting in a process, after the first call
_SIZES = ((224, 1), (224, 8), (448, 1))  # pixels and images, of both networks in OpenVINO


def export(folder: str, names: list[str]) -> None:
    """Write our model as a folder of timm's, and for the engines; in a child process, as the exporters change torch."""
    import numpy as np
    from PIL import Image
    from timm.models import save_for_hf

    from coatnet_zoo import export_model

    photos = Path(folder) / 'photos'
    photos.mkdir()
    for number in range(32):
        noise = np.random.default_rng(number).integers(0, 256, (256, 256, 3), np.uint8)
        Image.fromarray(noise).save(photos / f'{number}.png')
    plain = pair()[1].to(memory_format=torch.contiguous_format)
    save_for_hf(plain, Path(folder) / 'as created', safe_serialization=True)
    for name in names:
        int8 = photos if name.endswith('8-bit') else None
        export_model(pair()[1], Path(folder) / name, ENGINES[name][0], dynamic_batch=True, int8=int8)


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """Keep all cores busy with other processes."""
    others = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(THREADS)]
    try:
        yield
    finally:
        for other in others:
            other.kill()


def _timed(call: Call, images: torch.Tensor) -> dict:
    logits, times = call(images), []
    while sum(times) < _SECONDS or len(times) < 3:
        times.append(seconds(lambda: call(images)))
    return dict(seconds=statistics.median(times), logits=logits.tolist())


def matrix_product(batch: int) -> Call:
    """A call with as many multiply-adds as the network has for a batch, in one large matrix product."""
    from coatnet_zoo.registry import COSTS

    multiply_adds = batch * 1e9 * COSTS['coatnet_1.sw_in1k', 'timm'][1]
    a, b = torch.rand(round(multiply_adds / 2048**2), 2048), torch.rand(2048, 2048)
    return lambda _: (a @ b)[:, :0]  # not handed to the parent


@torch.inference_mode()
def run(name: str, folder: str) -> dict[str, dict]:
    """The median time of an engine for every setting, and the logits; for a child process."""
    from coatnet_zoo_runtime import load_exported

    torch.set_num_threads(THREADS)
    model = candidates().get(name.split(',')[0]) if not ENGINES[name][0] else None
    layout = torch.channels_last if model else torch.contiguous_format
    found = {}
    for batch in _BATCHES:
        call = model or (matrix_product(batch) if name == 'matmul peak' else None)
        call = call or load_exported(Path(folder) / name, 'latency' if batch == 1 else 'throughput', THREADS)
        images = random_images(batch).contiguous(memory_format=layout)
        found[f'batch {batch}'] = _timed(call, images)
    with busy_cores():
        found[f'batch {batch}, busy cores'] = _timed(call, images)
    return found


def answer(name: str, folder: str) -> float:
    """Seconds from the start of a new process to the classes of a photo, by `coatnet-zoo predict`."""
    program, photo = Path(sys.executable).with_name('coatnet-zoo'), Path(folder) / 'photos' / '0.png'
    command = [program, 'predict', photo, '--model', Path(folder) / name]
    return seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def engines(rounds: int) -> list[Row]:
    """Start every installed engine, one after another, twice, and time all settings in each."""
    missing = {f for f, modules in MODULES.items() if not all(map(importlib.util.find_spec, modules))}
    if missing:
        print(f"{', '.join(missing)}: not installed and not measured; pip install '.[engines]'")
    names = [name for name, (format, *_) in ENGINES.items() if format not in missing]
    exported = [name for name in names if ENGINES[name][0]]
    runs: dict[str, list[dict]] = {name: [] for name in names}
    first: dict[str, list[float]] = {name: [] for name in ('as created', *exported)}
    with tempfile.TemporaryDirectory() as folder:
        in_child(export, folder=folder, names=exported)
        sizes = {name: sum(f.stat().st_size for f in Path(folder, name).iterdir()) / 1e6 for name in first}
        for _ in tqdm(range(min(rounds, 2)), desc='engines', leave=False):
            for name in names:
                # Threads that wait for each other then give up their core.
                with mock.patch.dict(os.environ, {'OMP_WAIT_POLICY': 'PASSIVE'} if 'PASSIVE' in name else {}):
                    runs[name].append(in_child(run, name=name, folder=folder))
            for name in first:
                first[name].append(answer(name, folder))
    rows = []
    for setting in runs['timm'][0]:
        rows += summarise('engines', setting, {name: [r[setting]['seconds'] for r in runs[name]] for name in names})
        outputs = {name: torch.tensor(runs[name][0][setting]['logits']) for name in names}
        for row in rows[-len(names) :]:
            if row.candidate != 'matmul peak':
                row.difference = difference(row.candidate, outputs, 0.3 if '8-bit' in row.candidate else 1e-4)
    rows += summarise('engines', 'first answer, size on disk', first)
    for row in rows[-len(first) :]:
        row.memory = sizes[row.candidate]
    return rows


@torch.inference_mode()
def in_openvino(size: int, batch: int, rounds: int) -> list[dict]:
    """Rows of timm's network and ours in OpenVINO, with the same weights, alternately; for a child process."""
    import openvino
    from timm.utils import reparameterize_model

    settings = dict(PERFORMANCE_HINT='LATENCY', INFERENCE_NUM_THREADS=THREADS, INFERENCE_PRECISION_HINT='f32')
    images, calls = random_images(batch, size).contiguous(), {}
    for name, model in zip(('timm', 'ours'), map(reparameterize_model, pair(size)), strict=True):
        network = openvino.convert_model(torch.export.export(model, (images,)))
        compiled = openvino.compile_model(network, 'CPU', settings)
        calls[name] = lambda compiled=compiled: torch.from_numpy(compiled(images.numpy(), share_inputs=True)[0])
    return [dataclasses.asdict(row) for row in compare('same engine', f'{size} px, batch {batch}', calls, rounds)]


def same_engine(rounds: int) -> list[Row]:
    """timm's network and ours in OpenVINO."""
    if not importlib.util.find_spec('openvino'):
        return []
    return [Row(**row) for size, n in _SIZES for row in in_child(in_openvino, size=size, batch=n, rounds=rounds)]
