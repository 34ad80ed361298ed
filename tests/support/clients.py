"""What tests/clients hands to other software: a small CoAtNet of ours, timm's of the same structure, and images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from peers import randomize_
from PIL import Image
from timm.models import save_for_hf
from torch import nn

WHOSE = pytest.mark.parametrize('whose', ['ours', "timm's"])
NAMES = {'ours': 'coatnet_0', "timm's": 'coatnet_0_rw_224'}
LABELS = ['grey', 'red', 'green']


def arguments(whose: str, **kwargs: Any) -> dict[str, Any]:
    """The arguments that make the network small, for whatever passes them on to `timm.create_model`."""
    impl = dict(impl='timm') if whose == 'ours' else {}
    return {**impl, 'stem_width': (8, 16), 'embed_dim': (32, 32, 64, 64), 'depths': (1, 1, 2, 1), **kwargs}


def small(whose: str, **kwargs: Any) -> nn.Module:
    """A network of 64 pixels and three classes in training mode, as `timm.create_model` returns it.

    Both networks have the same random weights, whose logits differ from image to image.
    """
    model = timm.create_model(NAMES[whose], **arguments(whose, **{'img_size': 64, 'num_classes': 3, **kwargs}))
    return randomize_(model).train()


def save(model: nn.Module, folder: Path, labels: list[str] = LABELS) -> Path:
    """The folder of a network, as people save it."""
    save_for_hf(model, folder, safe_serialization=True, model_config=dict(label_names=labels))
    return folder


def draw_images(folder: Path, count: int = 4, size: int = 64) -> list[Path]:
    """PNG files of noise with a tint for each label, in a folder for each label."""
    generator = np.random.default_rng(0)
    files = []
    for label, tint in zip(LABELS, np.eye(4, 3, k=-1)[:3], strict=True):
        (folder / label).mkdir(parents=True)
        for i in range(count):
            files.append(folder / label / f'{i}.png')
            pixels = generator.uniform(0, 155, (size, size, 3)) + 100 * tint
            Image.fromarray(pixels.astype(np.uint8)).save(files[-1])
    return files


def steps_lower_the_loss(model: nn.Module, loss: Any, count: int = 3) -> None:
    """Train a model, and require a lower loss and a gradient in every parameter that needs one.

    Args:
        model: In training mode.
        loss: Returns the loss as a scalar.
        count: Steps.
    """
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        losses.append(value.item())
        optimizer.step()
    assert losses[-1] < losses[0], losses
