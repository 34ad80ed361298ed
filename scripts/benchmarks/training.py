"""Training steps of coatnet_0 and timm's coatnet_0 with equal weights: time, peak memory, loss."""

from collections.abc import Callable, Mapping

import timm
import torch
import torch.nn.functional as F

import coatnet_zoo

from .core import Row, compare
from .profiling import allocated_peak

assert coatnet_zoo  # the import registers the models


def build(
    name: str,
    batch: int,
    size: int,
    bfloat16: bool,
    compiled: bool,
    device: str,
    weights: Mapping[str, torch.Tensor],
) -> Callable[[], torch.Tensor]:
    """A call that makes one training step, always with the same images, and returns the loss."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, size, size).to(device, memory_format=torch.channels_last)
    targets = torch.randint(1000, (batch,)).to(device)
    model = timm.create_model(name, img_size=size).train()
    model.load_state_dict(weights)
    model = model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    run = torch.compile(model) if compiled else model

    def call() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            loss = F.cross_entropy(run(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return call


def training(device: str, rounds: int, compiled: bool = True) -> list[Row]:
    """Time steps in float32 and bfloat16 autocast, eager and compiled."""
    batch, size = (8, 128) if device == 'cpu' else (64, 224)
    names = {'timm': 'coatnet_0_rw_224', 'ours': 'coatnet_0'}
    weights = timm.create_model(names['timm'], img_size=size).state_dict()
    rows = []
    for bfloat16 in (False, True):
        for compile_it in (False, True) if compiled else (False,):
            torch._dynamo.reset()
            setting = f'{"compiled" if compile_it else "eager"} {"bf16 autocast" if bfloat16 else "fp32"}'
            calls = {k: build(n, batch, size, bfloat16, compile_it, device, weights) for k, n in names.items()}
            measured = compare('training', setting, calls, rounds, dict(ours=0.01 if bfloat16 else 1e-3))
            if device == 'cpu':
                for row in measured:
                    row.memory = allocated_peak(calls[row.candidate])
            rows += measured
    return rows
