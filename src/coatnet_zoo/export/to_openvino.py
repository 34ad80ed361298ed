"""OpenVINO, quantised by NNCF."""

import contextlib
import sys
from pathlib import Path

from .task import IMAGES, LOGITS, RECORD, Format, Task


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


OPENVINO = Format('model.xml', 'OpenVINO', 'openvino', ('openvino', 'nncf'), _write)
