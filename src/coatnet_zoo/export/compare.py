"""Comparing an exported model, computed by its runtime, with the original model."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .task import Network


@dataclass(frozen=True)
class Comparison:
    """How the logits of a runtime compare with the logits of torch.

    Attributes:
        difference: Largest absolute difference of a logit.
        largest: Largest absolute logit of torch.
        agreement: Number of images with the same class.
    """

    difference: float
    largest: float
    agreement: int


@torch.no_grad()
def compare(exported: Network, eager: nn.Module, batches: Iterable[np.ndarray]) -> Comparison:
    """Compare an exported model with the original model.

    Args:
        exported: The exported model.
        eager: The original model, in evaluation mode, on the CPU.
        batches: Arrays (B, C, H, W).
    """
    rows = [(exported(images), eager(torch.from_numpy(images)).numpy()) for images in batches]
    theirs, ours = (np.concatenate(logits) for logits in zip(*rows, strict=True))
    same = theirs.argmax(1) == ours.argmax(1)
    return Comparison(float(np.abs(theirs - ours).max()), float(np.abs(ours).max()), int(same.sum()))
