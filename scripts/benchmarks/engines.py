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
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from coatnet_zoo.registry import COSTS
from coatnet_zoo_runtime import load_exported

from .core import THREADS, Row, compare, difference, in_child, in_turn, seconds
from .figures import ENGINES
from .inference import candidates, pair, random_images

MODULES = {'openvino': ('openvino', 'nncf'), 'onnx': ('onnxscript', 'onnxruntime')}  # by format
_BATCHES = (1, 8)
_SECONDS, _PAUSE = 0.6, 0.3  # of an engine's calls in a round, and before them: threads of others may still wait
_SIZES = ((224, 1), (224, 8), (448, 1))  # pixels and images, of both networks in OpenVINO
_models = cache(candidates)  # all are kept: timm's is faster in what freed models leave


def export(folder: str, names: list[str]) -> None:
    """Write our model as a folder of timm's, and for the engines; in a child process, as the exporters change torch."""
    from timm.models import save_for_hf
    from torchvision.utils import save_image

    from coatnet_zoo import export_model

    photos = Path(folder) / 'photos'
    photos.mkdir()
    for number in range(32):
        save_image(torch.rand(3, 256, 256), photos / f'{number}.png')
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


@cache
def _call(name: str, folder: str, batch: int) -> Callable[[], torch.Tensor]:
    """A call of an engine, in its own process."""
    torch.set_num_threads(THREADS)
    if name == 'matmul peak':  # as many multiply-adds in one large matrix product
        rows = round(batch * 1e9 * COSTS['coatnet_1.sw_in1k', 'timm'][1] / 2048**2)
        a, b = torch.rand(rows, 2048), torch.rand(2048, 2048)
        return lambda: a @ b
    images = random_images(batch)
    if not ENGINES[name][0]:
        model = _models()[name.split(',')[0]]
        return lambda: model(images)
    exported = load_exported(Path(folder) / name, 'latency' if batch == 1 else 'throughput', THREADS)
    return lambda: exported(images.contiguous())


@torch.inference_mode()
def logits(name: str, folder: str, batch: int) -> list[list[float]]:
    """The logits of an engine, in its own process."""
    return _call(name, folder, batch)()[:batch].tolist()


@torch.inference_mode()
def timed(name: str, folder: str, batch: int) -> float:
    """Seconds of a call of an engine, in its own process: the median of several if they are short."""
    time.sleep(_PAUSE)
    call = _call(name, folder, batch)
    first = seconds(call)  # brings the weights back into the caches
    return statistics.median(seconds(call) for _ in range(max(1, round(_SECONDS / first))))


def answer(name: str, folder: str) -> float:
    """Seconds from the start of a new process to the classes of a photo, by `coatnet-zoo predict`."""
    program, photo = Path(sys.executable).with_name('coatnet-zoo'), Path(folder) / 'photos' / '0.png'
    command = [program, 'predict', photo, '--model', Path(folder) / name]
    return seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def engines(rounds: int) -> list[Row]:
    """Start every installed engine, then time all of them in turn."""
    missing = {f for f, modules in MODULES.items() if not all(map(importlib.util.find_spec, modules))}
    if missing:
        print(f"{', '.join(missing)}: not installed and not measured; pip install '.[engines]'")
    names = [name for name, (format, *_) in ENGINES.items() if format not in missing]
    exported = [name for name in names if ENGINES[name][0]]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        in_child(export, folder=folder, names=exported)
        calls = {name: partial(answer, name, folder) for name in ('as created', *exported)}
        answers = in_turn('engines', 'first answer, size on disk', calls, rounds)
        for row in answers:
            row.memory = sum(f.stat().st_size for f in Path(folder, row.candidate).iterdir()) / 1e6
        pools = {name: stack.enter_context(ProcessPoolExecutor(1, get_context('spawn'))) for name in names}

        def ask(function: Callable, name: str, batch: int) -> Any:
            # Threads that wait for each other then give up their core. The first question starts the process.
            with mock.patch.dict(os.environ, {'OMP_WAIT_POLICY': 'PASSIVE'} if 'PASSIVE' in name else {}):
                return pools[name].submit(function, name, folder, batch).result()

        for batch in _BATCHES:
            outputs = {name: torch.tensor(ask(logits, name, batch)) for name in names}
            calls = {name: partial(ask, timed, name, batch) for name in names}
            rows += in_turn('engines', f'batch {batch}', calls, rounds)
            for row in rows[-len(names) :]:
                if row.candidate != 'matmul peak':
                    row.difference = difference(row.candidate, outputs, 0.3 if '8-bit' in row.candidate else 1e-4)
        with busy_cores():
            rows += in_turn('engines', f'batch {batch}, busy cores', calls, rounds)
    return rows + answers


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
    return [vars(row) for row in compare('same engine', f'{size} px, batch {batch}', calls, rounds)]


def same_engine(rounds: int) -> list[Row]:
    """timm's network and ours in OpenVINO."""
    if not importlib.util.find_spec('openvino'):
        return []
    return [Row(**row) for size, n in _SIZES for row in in_child(in_openvino, size=size, batch=n, rounds=rounds)]
