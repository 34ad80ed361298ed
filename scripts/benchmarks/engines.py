"""coatnet_1 in the engines that it is exported to, beside timm's and ours in torch, each in a process of its own."""

import contextlib
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from tqdm import tqdm

from .core import Row, difference, in_child, summary

_PEAK = 'matmul peak'
# By candidate: the format, whether it is 8-bit, and the modules that it needs. None: computed by torch.
CANDIDATES: dict[str, tuple[str | None, bool, tuple[str, ...]]] = {
    'timm': (None, False, ()),
    'as created': (None, False, ()),
    'optimised': (None, False, ()),
    'optimised, `PASSIVE`': (None, False, ()),
    'OpenVINO': ('openvino', False, ('openvino', 'nncf')),
    'OpenVINO, 8-bit': ('openvino', True, ('openvino', 'nncf')),
    'ONNX Runtime': ('onnx', False, ('onnxscript', 'onnxruntime')),
    'ONNX Runtime, 8-bit': ('onnx', True, ('onnxscript', 'onnxruntime')),
    'pt2': ('pt2', False, ()),
    _PEAK: (None, False, ()),
}
_PASSIVE = {'OMP_WAIT_POLICY': 'PASSIVE'}  # threads that wait for each other give up their core
Call = Callable[[torch.Tensor], torch.Tensor]
_SECONDS = 2.0  # of every setting in a process, after the first call
_SIZES = ((224, 1), (224, 8), (448, 1))  # pixels and images, of both networks in OpenVINO


def export(folder: str, candidates: list[str]) -> dict:
    """Write our model for the engines; for a child process, because the exporters change torch."""
    import numpy as np
    from PIL import Image

    from coatnet_zoo import export_model

    from .inference import pair

    photos = Path(folder) / 'photos'
    photos.mkdir()
    for number in range(32):
        noise = np.random.default_rng(number).integers(0, 256, (256, 256, 3), np.uint8)
        Image.fromarray(noise).save(photos / f'{number}.png')
    for name in candidates:
        format, is_int8, _ = CANDIDATES[name]
        export_model(pair()[1], Path(folder) / name, format, dynamic_batch=True, int8=photos if is_int8 else None)
    return {}


def export_both(folder: str, size: int, batch: int) -> dict:
    """Write timm's network and ours for OpenVINO, with the same weights, for images of a size."""
    import openvino
    from timm.utils import reparameterize_model

    from .inference import pair

    for name, model in zip(('timm', 'ours'), map(reparameterize_model, pair(size)), strict=True):
        program = torch.export.export(model, (torch.zeros(batch, 3, size, size),))
        openvino.save_model(openvino.convert_model(program), Path(folder) / f'{name}.xml', compress_to_fp16=False)
    return {}


def run_both(name: str, folder: str, size: int, batch: int, threads: int) -> dict:
    """The median time of a network in OpenVINO, and its logits."""
    import openvino

    from .inference import random_images

    network = openvino.Core().read_model(Path(folder) / f'{name}.xml')
    settings = dict(PERFORMANCE_HINT='LATENCY', INFERENCE_NUM_THREADS=threads, INFERENCE_PRECISION_HINT='f32')
    compiled = openvino.compile_model(network, 'CPU', settings)
    images = random_images(batch, size).contiguous().numpy()
    return _timed(lambda _: torch.from_numpy(compiled(images, share_inputs=True)[0]), torch.empty(0))


@contextlib.contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Keep a number of cores busy with other processes."""
    others = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()


def _timed(call: Call, images: torch.Tensor) -> dict:
    logits = call(images)
    times: list[float] = []
    while sum(times) < _SECONDS or len(times) < 3:
        start = time.perf_counter()
        call(images)
        times.append(time.perf_counter() - start)
    return dict(seconds=statistics.median(times), logits=logits.tolist())


def matrix_product(batch: int) -> Call:
    """A call with as many multiply-adds as the network has for a batch, in one large matrix product."""
    from coatnet_zoo.registry import COSTS

    multiply_adds = batch * 1e9 * COSTS['coatnet_1.sw_in1k', 'timm'][1]
    a, b = torch.rand(round(multiply_adds / 2048**2), 2048), torch.rand(2048, 2048)
    return lambda _: (a @ b)[:, :0]  # not handed to the parent


@torch.inference_mode()
def run(candidate: str, folder: str, batches: list[int], threads: int) -> dict:
    """The median time of a candidate for every setting, and the logits; for a child process."""
    from .inference import candidates, random_images

    torch.set_num_threads(threads)
    model = None
    if CANDIDATES[candidate][0] is None and candidate != _PEAK:
        model = candidates('cpu', 224, compiled=False)[candidate.split(',')[0]]
    found = {}
    for batch in batches:
        if candidate == _PEAK:
            call = matrix_product(batch)
        else:
            call = model or _exported(candidate, folder, 'latency' if batch == 1 else 'throughput', threads)
        images = random_images(batch).contiguous(
            memory_format=torch.channels_last if model else torch.contiguous_format
        )
        found[f'batch {batch}'] = _timed(call, images)
        if batch == 8:
            with busy_cores(threads):
                found['batch 8, busy cores'] = _timed(call, images)
    return found


def _exported(candidate: str, folder: str, performance: str, threads: int) -> Call:
    from coatnet_zoo_runtime import load_exported

    return load_exported(Path(folder) / candidate, performance, threads)


def answer(candidate: str, folder: str) -> float:
    """Seconds from the start of a new process to the classes of a photo, by `coatnet-zoo predict`."""
    photo = Path(folder) / 'photos' / '0.png'
    command = [Path(sys.executable).with_name('coatnet-zoo'), 'predict', photo, '--model', Path(folder) / candidate]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def save(folder: str) -> dict:
    """Write our model as a folder for `local-dir:`, for `answer`."""
    from timm.models import save_for_hf

    from .inference import pair

    model = pair()[1].to(memory_format=torch.contiguous_format)
    save_for_hf(model, Path(folder) / 'as created', safe_serialization=True)
    return {}


def engines(batches: list[int], threads: int) -> list[Row]:
    """Start every installed engine, one after another, twice, and time all settings in each."""
    names = [name for name, (*_, modules) in CANDIDATES.items() if all(map(importlib.util.find_spec, modules))]
    if missing := [name for name in CANDIDATES if name not in names]:
        print(f"{', '.join(missing)}: not installed and not measured; pip install '.[engines]'")
    exported = [name for name in names if CANDIDATES[name][0]]
    runs: dict[str, list[dict]] = {name: [] for name in names}
    first: dict[str, list[float]] = {name: [] for name in ('as created', *exported)}
    with tempfile.TemporaryDirectory() as folder:
        in_child(export, folder=folder, candidates=exported)
        in_child(save, folder=folder)
        sizes = {name: sum(f.stat().st_size for f in Path(folder, name).iterdir()) / 1e6 for name in first}
        for _ in tqdm(range(2), desc='engines', leave=False):
            for name in names:
                with mock.patch.dict(os.environ, _PASSIVE if 'PASSIVE' in name else {}):
                    runs[name].append(in_child(run, candidate=name, folder=folder, batches=batches, threads=threads))
            for name in first:
                first[name].append(answer(name, folder))
    rows = []
    for setting in runs['timm'][0]:
        times = {name: [result[setting]['seconds'] for result in results] for name, results in runs.items()}
        outputs = {name: torch.tensor(results[0][setting]['logits']) for name, results in runs.items()}
        outputs[_PEAK] = None
        for name in names:
            row = summary('engines', setting, name, times)
            row.difference = difference(name, outputs, 0.3 if CANDIDATES[name][1] else 1e-4)
            rows.append(row)
    for name in first:
        row = summary('engines', 'first answer, size on disk', name, first)
        row.memory = sizes[name]
        rows.append(row)
    return rows


def same_engine(threads: int) -> list[Row]:
    """timm's network and ours in OpenVINO, alternately, three times."""
    rows = []
    for size, batch in _SIZES if importlib.util.find_spec('openvino') else ():
        with tempfile.TemporaryDirectory() as folder:
            in_child(export_both, folder=folder, size=size, batch=batch)
            arguments = dict(folder=folder, size=size, batch=batch, threads=threads)
            runs = [{n: in_child(run_both, name=n, **arguments) for n in ('timm', 'ours')} for _ in range(3)]
        times = {name: [run[name]['seconds'] for run in runs] for name in runs[0]}
        outputs = {name: torch.tensor(found['logits']) for name, found in runs[0].items()}
        for name in times:
            row = summary('same engine', f'{size} px, batch {batch}', name, times)
            row.difference = difference(name, outputs, 1e-4)
            rows.append(row)
    return rows
