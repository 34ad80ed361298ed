"""Helpers to compare models with models of other codes: random weights that all affect the outputs, and closeness."""

import copy
from pathlib import Path

import timm
import torch
from timm.models import save_for_hf
from torch import nn


@torch.no_grad()
def randomize_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Set random weights and batch norm statistics, which are the same for the same seed and structure.

    Initial values hide mistakes: biases and position tables are 0, norms have no effect, and layer scale silences the
    branches. Returns the model, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            if name.endswith('bias_table'):
                p.normal_(0.0, 0.5, generator=generator)
            elif name == 'gamma':
                p.uniform_(0.5, 1.0, generator=generator)
            elif p.ndim > 1:
                p.normal_(0.0, p[0].numel() ** -0.5, generator=generator)
            elif name == 'weight':
                p.uniform_(0.5, 1.5, generator=generator)
            else:
                p.normal_(0.0, 0.1, generator=generator)
        for name, buffer in module.named_buffers(recurse=False):
            if name == 'running_mean':
                buffer.normal_(0.0, 0.1, generator=generator)
            elif name == 'running_var':
                buffer.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def random_images(batch: int = 2, chans: int = 3, size: int | tuple[int, int] = 224) -> torch.Tensor:
    """Noise with a different contrast for each image, because networks average plain noise away."""
    height, width = (size, size) if isinstance(size, int) else size
    contrast = torch.linspace(0.5, 2.0, batch).view(-1, 1, 1, 1)
    return torch.randn(batch, chans, height, width) * contrast


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """max |ours - theirs| / max |theirs|."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, rel: float) -> None:
    """Require a relative error of at most `rel`, and outputs that vary over the batch.

    Outputs that do not depend on the images would be equal even if the branches differed.
    """
    assert ours.shape == theirs.shape
    assert theirs.shape[0] > 1, 'compare a batch of at least two'
    variation = (theirs.std(dim=0).max() / theirs.abs().max()).item()
    assert variation > 1e-2, f'the outputs vary over the batch by {variation:.1e} only'
    error = relative_error(ours, theirs)
    assert error <= rel, f'relative error {error:.1e}, allowed {rel:.1e}'


def timm_peer(name: str, seed: int = 0, **kwargs) -> nn.Module:
    """timm's own model with random weights, see `randomize_`; the arguments go to `timm.create_model`."""
    return randomize_(timm.create_model(name, **kwargs), seed)


@torch.no_grad()
def assert_saved_and_resized(model: nn.Module, folder: Path, size: tuple[int, int]) -> nn.Module:
    """Assert that a saved model loads from its folder, and that a change of its native size changes no logits.

    Returns a copy of the model, which is in evaluation mode, with the other native size (height, width).
    """
    save_for_hf(model, folder, safe_serialization=True)
    loaded = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    assert loaded.cfg == model.cfg
    x = random_images(2, 3, size)
    expected = model(x)
    torch.testing.assert_close(loaded(x), expected, rtol=0, atol=1e-6)
    resized = timm.create_model(f'local-dir:{folder}', pretrained=True, img_size=size).eval()
    changed = copy.deepcopy(model)
    changed.set_input_size(size)
    for other in (resized, changed):
        assert_close(other(x), expected, rel=1e-5)
    return changed
