"""Training steps of our model and timm's with equal weights: time and loss."""

from collections.abc import Callable, Sequence
from functools import partial

import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Optimizer

from .core import Row, compare
from .inference import random_images

_SGD = partial(SGD, lr=1e-4)
PRECISIONS = {'fp32': torch.float32, 'bf16 autocast': torch.bfloat16}


def step(model: nn.Module, optimizer: Optimizer, dtype: torch.dtype, images: torch.Tensor) -> Callable:
    """A call that makes one training step, always with the same images, and returns the loss."""
    targets = torch.arange(len(images), device=images.device)

    def call() -> torch.Tensor:
        torch.manual_seed(0)
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return call


def training(
    rounds: int, mode: str = 'eager', precisions: Sequence[str] = tuple(PRECISIONS), name: str = 'coatnet_0',
    batch: int = 8, size: int = 128, device: str = 'cpu', create_optimizer: Callable[..., Optimizer] = _SGD, **options,
) -> list[Row]:  # fmt: skip
    """Time steps in each precision: eager, compiled, or with `set_grad_checkpointing`. Options are of both models."""
    images = random_images(batch, size).to(device)
    weights = timm.create_model(f'{name}_rw_224', img_size=size, **options).state_dict()
    rows = []
    for precision in precisions:
        calls = {}
        for who, model_name in (('timm', f'{name}_rw_224'), ('ours', name)):
            model = timm.create_model(model_name, img_size=size, **options).train()
            model.load_state_dict(weights)
            model = model.to(device, memory_format=torch.channels_last)
            model.set_grad_checkpointing(mode == 'checkpointing')
            optimizer = create_optimizer(model.parameters())
            run = torch.compile(model) if mode == 'compiled' else model
            calls[who] = step(run, optimizer, PRECISIONS[precision], images)
        tolerance = 1e-3 if precision == 'fp32' else 0.01
        rows += compare('training', f'{mode} {precision}', calls, rounds, tolerance)
    return rows
