"""coatnet_1 in ONNX Runtime and OpenVINO beside timm's and ours, in float32, each in a process of its own."""

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from .core import Row, difference, in_child, summary

# By candidate: the modules that it needs.
CANDIDATES = {
    'timm': (),
    'as created': (),
    'optimised': (),
    'ONNX Runtime': ('onnxscript', 'onnxruntime'),
    'OpenVINO': ('openvino', 'nncf'),
}
FORMATS = {'ONNX Runtime': 'onnx', 'OpenVINO': 'openvino'}
Call = Callable[[torch.Tensor], torch.Tensor]
_SECONDS = 2.0  # of every batch in a process, after the first call


def export(folder: str, formats: list[str]) -> dict:
    """Write our model for the engines; for a child process, because the exporters change torch."""
    from coatnet_zoo import export_model

    from .inference import pair

    for format in formats:
        export_model(pair()[1], Path(folder) / format, format, dynamic_batch=True)
    return {}


def _onnxruntime(folder: Path, batch: int, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_free_dimension_override_by_name('batch', batch)
    session = onnxruntime.InferenceSession(folder / 'onnx' / 'model.onnx', options, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.contiguous().numpy()})[0])


def _openvino(folder: Path, batch: int, threads: int) -> Call:
    import openvino

    network = openvino.Core().read_model(folder / 'openvino' / 'model.xml')
    network.reshape([batch, 3, 224, 224])
    settings = {
        'PERFORMANCE_HINT': 'LATENCY',
        'INFERENCE_NUM_THREADS': threads,
        'INFERENCE_PRECISION_HINT': 'f32',  # otherwise CPUs with bfloat16 compute in bfloat16
    }
    compiled = openvino.compile_model(network, 'CPU', settings)
    return lambda images: torch.from_numpy(compiled(images.contiguous().numpy(), share_inputs=True)[0])


@torch.inference_mode()
def run(candidate: str, folder: str, batches: list[int], threads: int) -> dict:
    """The median time of a candidate for every batch, and the logits; for a child process."""
    from .inference import candidates, random_images

    torch.set_num_threads(threads)
    build = {'ONNX Runtime': _onnxruntime, 'OpenVINO': _openvino}.get(candidate)
    model = None if build else candidates('cpu', 224, compiled=False)[candidate]
    found = {}
    for batch in batches:
        call = build(Path(folder), batch, threads) if build else model
        images = random_images(batch)
        logits = call(images)
        times: list[float] = []
        while sum(times) < _SECONDS:
            start = time.perf_counter()
            call(images)
            times.append(time.perf_counter() - start)
        found[str(batch)] = dict(seconds=statistics.median(times), logits=logits.tolist())
    return found


def engines(batches: list[int], threads: int) -> list[Row]:
    """Start every engine that is installed in turn, twice, and time the batches in each."""
    names = [name for name, modules in CANDIDATES.items() if all(map(importlib.util.find_spec, modules))]
    if missing := [name for name in CANDIDATES if name not in names]:
        print(f"{', '.join(missing)}: not installed and not measured; pip install '.[engines]'")
    runs: dict[str, list[dict]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        in_child(export, folder=folder, formats=[FORMATS[name] for name in names if name in FORMATS])
        for _ in tqdm(range(2), desc='engines', leave=False):
            for name in names:
                runs[name].append(in_child(run, candidate=name, folder=folder, batches=batches, threads=threads))
    rows = []
    for batch in map(str, batches):
        times = {name: [result[batch]['seconds'] for result in results] for name, results in runs.items()}
        outputs = {name: torch.tensor(results[0][batch]['logits']) for name, results in runs.items()}
        for name in names:
            row = summary('engines', f'batch {batch}', name, times)
            row.difference = difference(name, outputs, 1e-4)
            rows.append(row)
    return rows
