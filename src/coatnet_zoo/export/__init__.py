"""Exporting a model for other runtimes: ONNX, OpenVINO and torch's AOTInductor, compared with the model itself."""

from .export import Exported as Exported
from .export import export_model as export_model
from .request import FORMATS as FORMATS
from .request import check_request as check_request
