"""Inference of our coatnet_1 beside timm's with the same weights: batches, and larger images."""

from collections.abc import Callable

import timm
import torch
from torch import nn

from coatnet_zoo import optimize_for_inference

from .core import Row, compare, in_child
from .memory import forward_memory

SIZES = (224, 384, 448, 672)
# Batches for which models are compiled, by device. Compiling takes minutes on CPUs.
COMPILED = {'cpu': (8,), 'cuda': (1, 64, 256)}


def randomize(model: nn.Module) -> nn.Module:
    """Set random statistics, so that batch norms have an effect."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return model.eval()


def pair(img_size: int = 224) -> tuple[nn.Module, nn.Module]:
    """timm's coatnet_1_rw_224, and our coatnet_1 with the same weights, channels last."""
    torch.manual_seed(0)
    theirs = randomize(timm.create_model('coatnet_1_rw_224', img_size=img_size))
    ours = timm.create_model('coatnet_1', img_size=img_size).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs.to(memory_format=torch.channels_last), ours.to(memory_format=torch.channels_last)


def random_images(batch: int, img_size: int = 224, device: str = 'cpu') -> torch.Tensor:
    """(batch, 3, img_size, img_size), channels last."""
    images = torch.randn(batch, 3, img_size, img_size, generator=torch.Generator().manual_seed(1))
    return images.to(device, memory_format=torch.channels_last)


def candidates(device: str, img_size: int, compiled: bool) -> dict[str, nn.Module]:
    """timm's model in eager mode first, and ours."""
    theirs, ours = (model.to(device) for model in pair(img_size))
    models = {'timm': theirs, 'as created': ours, 'optimised': optimize_for_inference(ours)}
    if compiled:
        models['timm, compiled'] = torch.compile(theirs)
        models['optimised, compiled'] = optimize_for_inference(ours, compile=True)
    return models


def calls(models: dict[str, nn.Module], images: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """A call of every model."""
    return {name: lambda model=model: model(images) for name, model in models.items()}


@torch.inference_mode()
def inference(device: str, batches: list[int], rounds: int) -> list[Row]:
    """Time all candidates at 224 pixels."""
    rows = []
    for batch in batches:
        torch._dynamo.reset()
        models = candidates(device, 224, batch in COMPILED[device])
        rows += compare('inference', f'batch {batch}', calls(models, random_images(batch, 224, device)), rounds)
    return rows


def size_memory(candidate: str, size: int, threads: int) -> dict:
    """Peak memory of one image through a candidate; for a child process."""

    def build() -> tuple[nn.Module, torch.Tensor]:
        name = 'coatnet_1_rw_224' if candidate == 'timm' else 'coatnet_1'
        model = timm.create_model(name, img_size=size).eval().to(memory_format=torch.channels_last)
        return optimize_for_inference(model) if candidate == 'optimised' else model, random_images(1, size)

    return forward_memory(build, threads)


@torch.inference_mode()
def sizes(device: str, rounds: int, threads: int) -> list[Row]:
    """Time and peak memory of one image at growing sizes."""
    rows = []
    for size in SIZES:
        models = candidates(device, size, compiled=False)
        measured = compare('sizes', f'{size} px', calls(models, random_images(1, size, device)), rounds)
        for row in measured if device == 'cpu' else ():
            row.memory = in_child(size_memory, candidate=row.candidate, size=size, threads=threads)['memory']
        rows += measured
    return rows
