"""What tests/clients hands to other software: a small CoAtNet of ours, timm's of the same structure, and images."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
from peers import randomize_
from PIL import Image
from timm.models import save_for_hf
from torch import nn

# timm's own network is tried as it is and, where it fails because of the size of the images, made for this size.
MADE_FOR_IT = "timm's for this size"
NAMES = {'ours': 'coatnet_0', "timm's": 'coatnet_0_rw_224', MADE_FOR_IT: 'coatnet_0_rw_224'}
LABELS = ['blue', 'green', 'red']
# Errors of timm's networks.
ONE_SIZE = pytest.RaisesExc(RuntimeError, match=r'The size of tensor a \(\d+\) must match the size of tensor b')
# num_classes is twice in timm's config.json. A pipeline puts the TypeError into the message of a ValueError.
DUPLICATE = pytest.RaisesExc((TypeError, ValueError), match="multiple values for .*'num_classes'")


def client(name: str) -> ModuleType:
    """The module of a client; skips the tests of the file where the client is not installed."""
    return pytest.importorskip(name, reason=f'{name} is not installed; `make clients` installs it')


def whose(theirs: pytest.RaisesExc | None = None) -> pytest.MarkDecorator:
    """Run a test with our network and with timm's, which raises the error `theirs`, as docs/ecosystem.md says.

    With `ONE_SIZE` the test runs a third time, with timm's network for the size of the images.
    """
    marks = [pytest.mark.xfail(raises=theirs, reason="timm's network fails", strict=True)] if theirs else []
    made_for_it = [MADE_FOR_IT] if theirs is ONE_SIZE else []
    return pytest.mark.parametrize('whose', ['ours', pytest.param("timm's", marks=marks), *made_for_it])


def arguments(whose: str, stages: str = 'CCTT', *, size: tuple[int, int] = (64, 64), **kwargs: Any) -> dict[str, Any]:
    """The arguments of `timm.create_model` that make a network small.

    `stages` are 'CCTT', or 'CT' for what is compiled; `size` is that of the images of `MADE_FOR_IT`, in pixels.
    """
    if whose == MADE_FOR_IT:
        kwargs['img_size'] = size
    types = dict(impl='timm', block_types=stages) if whose == 'ours' else dict(block_type=tuple(stages))
    sizes = dict(embed_dim=(32, 32, 64, 64), depths=(1, 1, 2, 1)) if stages == 'CCTT' else dict(embed_dim=(32, 64))
    return {'depths': (1, 1), **types, 'stem_width': (8, 16), **sizes, **kwargs}


def small(whose: str, **kwargs: Any) -> nn.Module:
    """A network for 64 pixels and three classes, in training mode; ours and timm's have the same random weights."""
    kwargs = {'img_size': 64, 'num_classes': 3, **kwargs}
    model = randomize_(timm.create_model(NAMES["timm's"], **arguments("timm's", **kwargs)))
    if whose == 'ours':
        theirs, model = model, timm.create_model(NAMES[whose], **arguments(whose, **kwargs))
        model.load_state_dict(theirs.state_dict())
    return model.train()


def images(batch: int = 2, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.rand(batch, 3, height, width)


def save(model: nn.Module, folder: Path) -> Path:
    """The folder of a network, as people save it."""
    save_for_hf(model, folder, safe_serialization=True, model_config=dict(label_names=LABELS))
    return folder


def draw_images(folder: Path, count: int = 4, size: int = 64) -> list[Path]:
    """Write PNG files of tinted noise, `count` into a folder for each label."""
    generator = np.random.default_rng(0)
    files = []
    for label, tint in zip(LABELS, np.eye(3)[::-1], strict=True):
        (folder / label).mkdir(parents=True)
        for i in range(count):
            files.append(folder / label / f'{i}.png')
            pixels = generator.uniform(0, 155, (size, size, 3)) + 100 * tint
            Image.fromarray(pixels.astype(np.uint8)).save(files[-1])
    return files


def learns(model: nn.Module, loss: Callable[[], torch.Tensor]) -> None:
    """Train the parameters that need a gradient for a few steps, and require that the loss falls."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    first = last = loss()
    for _ in range(3):
        optimizer.zero_grad()
        last.backward()
        optimizer.step()
        last = loss()
    assert last < first


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, abs: float = 1e-5) -> None:
    """Require equal values, except for the order of sums: weights from a file lie elsewhere in memory."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=abs)
