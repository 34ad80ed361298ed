"""scikit-learn's digits as the shipped weights and the fixture's take them."""

import pytest
import torch
import torch.nn.functional as F


def scaled_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images (1797, 1, 64, 64) in [-1, 1], and classes (1797,)."""
    data = pytest.importorskip('sklearn.datasets').load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    x = F.interpolate(x, size=(64, 64), mode='bilinear', align_corners=False)
    return (x - 0.5) / 0.5, torch.tensor(data.target)


def split(classes: torch.Tensor) -> tuple[list[int], list[int]]:
    """Rows that `coatnet_atto.digits` was trained on, and those held out."""
    selection = pytest.importorskip('sklearn.model_selection')
    return selection.train_test_split(range(len(classes)), test_size=0.2, random_state=0, stratify=classes)
