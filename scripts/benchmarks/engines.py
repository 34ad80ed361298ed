"""coatnet_1 in ONNX Runtime and OpenVINO, beside timm's and ours, on quiet and on busy cores."""

import contextlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import timm
import torch
from safetensors.torch import save_file

from coatnet_zoo import export_model, load_optimized, optimize_for_inference

from . import fresh
from .busy import busy_cores
from .core import Row, compare, in_child
from .inference import TOLERANCES, pair, precision_of
from .profiling import shares

if TYPE_CHECKING:
    import openvino

# By part: what the extra `engines` installs for the part.
NEEDS = {'engines': ('onnx', 'onnxscript', 'onnxruntime', 'openvino', 'nncf', 'torchao'), 'first': ('torchao',)}
NEEDS['busy'] = NEEDS['engines']
BUSY_BATCHES = [1, 8]
_WEIGHTS, _ONNX, _OPENVINO, _INT8 = 'weights.safetensors', 'onnx', 'openvino', 'int8.xml'

# By kind of model that is saved: its candidate.
SAVED = {'compiled': 'ours saved fp32', 'int8': 'ours saved int8'}

Call = Callable[[], torch.Tensor]


def missing(parts: list[str]) -> str | None:
    """A sentence on what is not installed and needed for the parts; None if nothing is missing."""
    for part in parts:
        names = [name for name in NEEDS.get(part, ()) if importlib.util.find_spec(name) is None]
        if names:
            return f"The part {part} needs {', '.join(names)}: pip install 'coatnet-zoo[engines]'."
    return None


def calibration_images() -> torch.Tensor:
    """The images from which our int8 and OpenVINO's take the ranges of values, (16, 3, 224, 224)."""
    return torch.randn(16, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def write_networks(folder: str) -> dict:
    """Write our model with the weights in the folder for all engines.

    Runs in a child process, because the exporters and NNCF change torch and the modules that they read.
    """
    import nncf
    import openvino

    path = Path(folder)
    model = timm.create_model('coatnet_1', pretrained=True, pretrained_cfg_overlay=dict(file=str(path / _WEIGHTS)))
    export_model(model, path / _ONNX, 'onnx', dynamic_batch=True)
    exported = export_model(model, path / _OPENVINO, 'openvino', dynamic_batch=True)
    images = [image[None].numpy() for image in calibration_images()]
    quantized = nncf.quantize(
        openvino.Core().read_model(exported.file),
        nncf.Dataset(images),
        subset_size=len(images),
        model_type=nncf.ModelType.TRANSFORMER,
    )
    openvino.save_model(quantized, path / _INT8, compress_to_fp16=False)
    return {}


@contextlib.contextmanager
def networks(compiled: bool) -> Iterator[Path]:
    """A temporary folder with the networks for all engines, and ours saved; they have the weights of `pair`."""
    with tempfile.TemporaryDirectory() as folder:
        _, ours = pair()
        save_file(ours.state_dict(), Path(folder) / _WEIGHTS)
        in_child(write_networks, folder=folder)
        for kind in SAVED if compiled else ():
            in_child(fresh.save, kind=kind, file=f'{folder}/{_WEIGHTS}', folder=f'{folder}/{kind}')
        yield Path(folder)


def _onnxruntime(file: Path, images: np.ndarray, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_free_dimension_override_by_name('batch', len(images))
    session = onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])
    return lambda: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images})[0])


def _compile(file: Path, batch: int, threads: int, streams: int) -> 'openvino.CompiledModel':
    import openvino

    network = openvino.Core().read_model(file)
    network.reshape([batch, 3, 224, 224])
    settings = {
        'PERFORMANCE_HINT': 'LATENCY' if streams == 1 else 'THROUGHPUT',
        'NUM_STREAMS': streams,
        'INFERENCE_NUM_THREADS': threads,
        'INFERENCE_PRECISION_HINT': 'f32',  # otherwise CPUs with bfloat16 compute in bfloat16
    }
    return openvino.compile_model(network, 'CPU', settings)


def _openvino(file: Path, images: np.ndarray, threads: int) -> Call:
    compiled = _compile(file, len(images), threads, streams=1)
    return lambda: torch.from_numpy(compiled(images, share_inputs=True)[0])


def _streams(file: Path, images: np.ndarray, threads: int) -> Call:
    """Every image is a request of its own, and every thread computes another image."""
    import openvino

    queue = openvino.AsyncInferQueue(_compile(file, 1, threads, streams=threads))
    logits: list[np.ndarray | None] = [None] * len(images)

    def keep(request: 'openvino.InferRequest', place: int) -> None:
        logits[place] = request.get_output_tensor().data.copy()

    def call() -> torch.Tensor:
        for place in range(len(images)):
            queue.start_async(images[place : place + 1], place, share_inputs=True)
        queue.wait_all()
        return torch.from_numpy(np.concatenate(logits))

    queue.set_callback(keep)
    return call


def engine_candidates(folder: Path, images: torch.Tensor, threads: int) -> dict[str, Call]:
    """The engines; streams only for more than one image."""
    array = images.contiguous().numpy()
    xml = _OPENVINO + '/model.xml'
    calls = {'onnxruntime fp32': _onnxruntime(folder / _ONNX / 'model.onnx', array, threads)}
    for precision, file in (('fp32', folder / xml), ('int8', folder / _INT8)):
        calls[f'OpenVINO {precision}'] = _openvino(file, array, threads)
        if len(array) > 1:
            calls[f'OpenVINO {precision} streams'] = _streams(file, array, threads)
    return calls


def torch_candidates(folder: Path, images: torch.Tensor, compiled: bool) -> dict[str, Call]:
    """timm's model in eager mode first, and ours."""
    theirs, ours = pair()
    theirs = theirs.to(memory_format=torch.channels_last)
    models = {'timm eager fp32': theirs, 'ours eager fp32': ours, 'ours optimised fp32': optimize_for_inference(ours)}
    if compiled:
        models['ours compiled fp32'] = optimize_for_inference(ours, compile=True)
        integers = optimize_for_inference(ours, quantize='int8', calibration=calibration_images())
        models['ours compiled int8'] = integers
        models |= {name: load_optimized(folder / kind) for kind, name in SAVED.items()}
    return {name: lambda model=model: model(images) for name, model in models.items()}


def references(names: list[str]) -> dict[str, list[str]]:
    """Ours are compared with OpenVINO in the same precision, with streams or without, whichever is faster."""
    return {
        name: [other for other in names if other.startswith(f'OpenVINO {precision_of(name)}')]
        for name in names
        if name.startswith('ours')
    }


@torch.inference_mode()
def engines(
    part: str, batches: list[int], rounds: int, threads: int, compiled: bool = True, busy: int = 0
) -> list[Row]:
    """Time all candidates at 224 pixels, while so many other processes keep one core busy each."""
    rows = []
    with networks(compiled) as folder:
        for batch in batches:
            torch._dynamo.reset()
            torch.manual_seed(0)
            images = torch.randn(batch, 3, 224, 224).to(memory_format=torch.channels_last)
            calls = torch_candidates(folder, images, compiled) | engine_candidates(folder, images, threads)
            for call in calls.values():  # compiles, which would take much longer on busy cores
                call()
            with busy_cores(busy):
                tolerances = {name: TOLERANCES[precision_of(name)] for name in calls}
                measured = compare(part, f'batch {batch}', calls, rounds, tolerances, references(list(calls)))
            for row in measured:
                # torch's profiler sees neither other engines nor machine code.
                if not busy and row.candidate.startswith(('timm', 'ours')) and row.candidate not in SAVED.values():
                    row.profile = shares(calls[row.candidate])
            rows += measured
    return rows
