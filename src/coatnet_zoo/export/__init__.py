"""Exporting a model to ONNX, OpenVINO and torch's AOTInductor, and comparing the exported file with the model."""

from .export import Exported, export_model
from .request import check_request
