"""OpenVINO, quantised by NNCF."""

import contextlib
import sys
from pathlib import Path

from .task import IMAGES, LOGITS, RECORD, Format, Network, Task


def _write(task: Task, file: Path) -> None:
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


def _load(file: Path) -> Network:
    import openvino

    # Without the hint, CPUs with bfloat16 compute in bfloat16.
    compiled = openvino.compile_model(file, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    return lambda images: compiled(images)[LOGITS]


OPENVINO = Format('model.xml', 'OpenVINO', 'openvino', ('openvino', 'nncf'), _write, _load)
