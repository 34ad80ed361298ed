"""Making a trained model fast for inference: folding, packing, lower precision, integers, attention row by row."""

from .optimize import optimize_for_inference as optimize_for_inference
from .report import quantization_report as quantization_report
from .saved import load_optimized as load_optimized
from .saved import save_optimized as save_optimized
