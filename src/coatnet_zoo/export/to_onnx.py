"""ONNX, computed and quantised by onnxruntime."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from .task import IMAGES, LOGITS, RECORD, Format, Task


def _write(task: Task, file: Path) -> None:
    program = torch.onnx.export(
        task.network,
        (task.example,),
        dynamo=True,
        verbose=False,
        input_names=[IMAGES],
        output_names=[LOGITS],
        dynamic_shapes=(task.dynamic,),
    )
    program.model.metadata_props[RECORD] = task.record
    if not task.images:
        program.save(file)
        return
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        program.save(Path(folder) / file.name)
        _quantize(Path(folder) / file.name, task.images, file)


def _quantize(source: Path, images: Iterable[np.ndarray], file: Path) -> None:
    """Quantise convolutions and linear layers. Weights have a scale per channel, activations a scale per tensor."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        feeds = iter([{IMAGES: image} for image in images])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    # Weights above the 2 GB limit of a protobuf are in a separate file.
    is_large = source.with_name(f'{source.name}.data').exists()
    prepared = source.with_name('prepared.onnx')
    quant_pre_process(source, prepared, skip_symbolic_shape=True, save_as_external_data=is_large)
    graph = onnx.load(prepared, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    products = [n.name for n in graph.node if n.op_type == 'MatMul' and not constants & set(n.input)]
    quantization.quantize_static(
        prepared,
        file,
        Reader(),
        op_types_to_quantize=['Conv', 'Gemm', 'MatMul'],
        nodes_to_exclude=products,  # queries with keys, and weights with values
        per_channel=True,
        use_external_data_format=is_large,
    )


ONNX = Format('model.onnx', 'onnxruntime', 'onnx', ('onnx', 'onnxscript', 'onnxruntime'), _write)
