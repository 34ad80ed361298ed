"""Making a trained model fast for inference: folding, channels last, lower precision, a few images at a time."""

from .optimize import optimize_for_inference
