"""Training steps of coatnet_0 and timm's coatnet_0 with equal weights: time and loss."""

from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from torch import nn

import coatnet_zoo

from .core import Row, compare

assert coatnet_zoo  # the import registers the models


def step(model: nn.Module, compiled: bool, dtype: torch.dtype, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A call that makes one training step, always with the same images, and returns the loss."""
    targets = torch.arange(len(images), device=images.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    run = torch.compile(model) if compiled else model

    def call() -> torch.Tensor:
        torch.manual_seed(0)
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(run(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return call


def training(device: str, rounds: int) -> list[Row]:
    """Time steps in float32 and bfloat16 autocast; on GPUs also compiled."""
    batch, size = (8, 128) if device == 'cpu' else (64, 224)
    images = torch.randn(batch, 3, size, size).to(device, memory_format=torch.channels_last)
    weights = timm.create_model('coatnet_0_rw_224', img_size=size).state_dict()
    rows = []
    for name, dtype in (('fp32', torch.float32), ('bf16 autocast', torch.bfloat16)):
        for compiled in (False,) if device == 'cpu' else (False, True):
            torch._dynamo.reset()
            calls = {}
            for who, model_name in (('timm', 'coatnet_0_rw_224'), ('ours', 'coatnet_0')):
                model = timm.create_model(model_name, img_size=size).train()
                model.load_state_dict(weights)
                model = model.to(device, memory_format=torch.channels_last)
                calls[who] = step(model, compiled, dtype, images)
            setting = f'{"compiled" if compiled else "eager"} {name}'
            rows += compare('training', setting, calls, rounds, 1e-3 if dtype == torch.float32 else 0.01)
    return rows
