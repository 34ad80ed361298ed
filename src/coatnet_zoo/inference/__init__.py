"""Making a trained model fast for inference: folding, packing, lower precision, integers, attention row by row."""

from .optimize import optimize_for_inference as optimize_for_inference
from .report import quantization_report as quantization_report
