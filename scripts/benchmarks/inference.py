"""Inference of our coatnet_1 beside timm's with the same weights: batches, and larger images."""

from collections.abc import Callable

import timm
import torch
from torch import nn

from coatnet_zoo import optimize_for_inference

from .core import THREADS, Row, compare, forward_memory, in_child

BATCHES = (1, 8, 32)
SIZES = (224, 384, 448, 672)
COMPILED = 8  # the batch for which models are compiled, too, which takes minutes


def randomize(model: nn.Module) -> nn.Module:
    """Set random statistics, so that batch norms have an effect."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return model.eval()


def pair(img_size: int = 224, name: str = 'coatnet_1', **options) -> tuple[nn.Module, nn.Module]:
    """timm's model and ours with the same weights, channels last; options are those of both models."""
    torch.manual_seed(0)
    theirs = randomize(timm.create_model(f'{name}_rw_224', img_size=img_size, **options))
    ours = timm.create_model(name, img_size=img_size, **options).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs.to(memory_format=torch.channels_last), ours.to(memory_format=torch.channels_last)


def random_images(batch: int, img_size: int = 224) -> torch.Tensor:
    """(batch, 3, img_size, img_size), channels last."""
    images = torch.randn(batch, 3, img_size, img_size, generator=torch.Generator().manual_seed(1))
    return images.to(memory_format=torch.channels_last)


def candidates(
    img_size: int = 224, compiled: bool = False, dtype: torch.dtype = torch.float32, **options
) -> dict[str, nn.Module]:
    """timm's model first, and ours, eager or compiled; options are those of `pair`."""
    theirs, ours = pair(img_size, **options)
    optimised = optimize_for_inference(ours, dtype, compiled)
    if compiled:
        return {'timm, compiled': torch.compile(theirs.to(dtype)), 'optimised, compiled': optimised}
    return {'timm': theirs.to(dtype), 'as created': ours.to(dtype), 'optimised': optimised}


def calls(models: dict[str, nn.Module], images: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """A call of every model."""
    return {name: lambda model=model: model(images) for name, model in models.items()}


@torch.inference_mode()
def batch_rows(batch: int, rounds: int) -> list[dict]:
    """All candidates at 224 pixels; for a child process, as timm's model is faster in what freed models leave."""
    torch.set_num_threads(THREADS)
    models = candidates() | (candidates(compiled=True) if batch == COMPILED else {})
    return [vars(row) for row in compare('inference', f'batch {batch}', calls(models, random_images(batch)), rounds)]


def inference(rounds: int) -> list[Row]:
    """Time all candidates at 224 pixels, each batch in a process of its own."""
    runs = {batch: (3 if batch == BATCHES[-1] else 9) * rounds for batch in BATCHES}  # short calls vary more
    return [Row(**row) for batch in BATCHES for row in in_child(batch_rows, batch=batch, rounds=runs[batch])]


def size_memory(candidate: str, size: int) -> float:
    """Peak memory of one image through a candidate; for a child process."""

    def build() -> tuple[nn.Module, torch.Tensor]:
        name = 'coatnet_1_rw_224' if candidate == 'timm' else 'coatnet_1'
        model = timm.create_model(name, img_size=size).eval().to(memory_format=torch.channels_last)
        return optimize_for_inference(model) if candidate == 'optimised' else model, random_images(1, size)

    return forward_memory(build)


@torch.inference_mode()
def sizes(rounds: int) -> list[Row]:
    """Time and peak memory of one image at growing sizes."""
    rows = []
    for size in SIZES:
        measured = compare('sizes', f'{size} px', calls(candidates(size), random_images(1, size)), rounds)
        for row in measured:
            row.memory = in_child(size_memory, candidate=row.candidate, size=size)
        rows += measured
    return rows
