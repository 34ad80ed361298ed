"""The formats: the input that all of them take, and how each is written."""

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

# Names of the input and output of an exported network, and of the record in the metadata of its file.
IMAGES, LOGITS, RECORD = 'images', 'logits', 'coatnet_zoo'


@dataclass(frozen=True)
class Task:
    """The input of a format."""

    network: nn.Module  # images (B, C, H, W) -> logits (B, num_classes), in evaluation mode, in float32, on the CPU
    example: torch.Tensor  # images of a size that the exported network must take
    dynamic: dict[int, str]  # names of the dimensions that may have any size, by the number of the dimension
    images: list[np.ndarray]  # prepared, (1, C, H, W), for the calibration of 8-bit integers; empty for float32
    record: str  # preprocessing and labels, as JSON, for the metadata

    def program(self) -> torch.export.ExportedProgram:
        """Export the network as a graph of torch."""
        shapes = dict.fromkeys(self.dynamic, torch.export.Dim.DYNAMIC)
        return torch.export.export(self.network, (self.example,), dynamic_shapes=(shapes,))


@dataclass(frozen=True)
class Format:
    """A format of exported models."""

    file: str  # name of the file that the runtime opens
    runtime: str  # name of the runtime that computes the file
    extra: str | None  # the extra of this package that installs the modules of the format; None if torch is enough
    modules: tuple[str, ...]  # of the extra
    write: Callable[[Task, Path], None]  # writes the file, and other files next to it if necessary


def _write_onnx(task: Task, file: Path) -> None:
    program = torch.onnx.export(
        task.network, (task.example,), dynamo=True, verbose=False, dynamic_shapes=(task.dynamic,),
        input_names=[IMAGES], output_names=[LOGITS],
    )  # fmt: skip
    program.model.metadata_props[RECORD] = task.record
    for node in program.model.graph:
        node.metadata_props.clear()  # 2 KB each: the stack in the source, with the folders of this machine
    if not task.images:
        program.save(file)
        return
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        program.save(Path(folder) / file.name)
        _quantize_onnx(Path(folder) / file.name, task.images, file)


def _quantize_onnx(source: Path, images: Iterable[np.ndarray], file: Path) -> None:
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


def _write_openvino(task: Task, file: Path) -> None:
    import openvino

    model = openvino.convert_model(task.program())
    if task.images:
        import nncf

        data, kind = nncf.Dataset(task.images), nncf.ModelType.TRANSFORMER
        with contextlib.redirect_stdout(sys.stderr):  # progress belongs on stderr
            model = nncf.quantize(model, data, subset_size=len(task.images), model_type=kind)
    model.inputs[0].get_tensor().set_names({IMAGES})
    model.outputs[0].get_tensor().set_names({LOGITS})
    model.set_rt_info(task.record, [RECORD])
    openvino.save_model(model, file, compress_to_fp16=False)


def _write_pt2(task: Task, file: Path) -> None:
    package = io.BytesIO()  # on a full disk, torch's own writer would end the process
    configs = {'aot_inductor.metadata': {RECORD: task.record}}
    torch._inductor.aoti_compile_and_package(task.program(), package_path=package, inductor_configs=configs)
    file.write_bytes(package.getbuffer())


_ONNX = ('onnx', 'onnxscript', 'onnxruntime')
FORMATS = {
    'onnx': Format('model.onnx', 'onnxruntime', 'onnx', _ONNX, _write_onnx),
    'openvino': Format('model.xml', 'OpenVINO', 'openvino', ('openvino', 'nncf'), _write_openvino),
    # With symbolic heights and widths, the compiler needs more than five minutes for the smallest network.
    'pt2': Format('model.pt2', 'AOTInductor', None, (), _write_pt2),
}
