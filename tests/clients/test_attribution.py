"""captum and grad-cam: which pixels speak for a class, the same as with timm's network of the same weights."""

from collections.abc import Callable

import pytest
import torch
from clients import assert_same, client, images, small
from torch import nn

METHODS = {
    'IntegratedGradients': dict(n_steps=8), 'Saliency': {}, 'DeepLift': {}, 'GuidedBackprop': {},
    'Occlusion': dict(sliding_window_shapes=(3, 32, 32), strides=(3, 32, 32)),
}  # fmt: skip
LAYERS = {'stage 4': lambda m: m.stages[-1], 'stage 2': lambda m: m.stages[1], 'norm': lambda m: m.norm}


def assert_same_evidence(evidence: Callable[[nn.Module], torch.Tensor], abs: float) -> None:
    """Require equal evidence from our network and timm's, within a share of the largest value."""
    ours, theirs = (evidence(small(whose).eval()).detach() for whose in ('ours', "timm's"))
    assert ours.std() > 0
    assert_same(ours, theirs, abs=abs * theirs.abs().max().item())


@pytest.mark.parametrize('method', METHODS)
def test_captum(method: str) -> None:
    captum, x = client('captum.attr'), images()
    assert_same_evidence(lambda m: getattr(captum, method)(m).attribute(x, target=1, **METHODS[method]), 1e-4)


@pytest.mark.parametrize('layer', LAYERS)
def test_captum_of_a_layer(layer: str) -> None:
    captum, x = client('captum.attr'), images()
    assert_same_evidence(lambda m: captum.LayerGradCam(m, LAYERS[layer](m)).attribute(x, target=1), 1e-4)


@pytest.mark.parametrize('layer', LAYERS)
@pytest.mark.parametrize('method', ['GradCAM', 'EigenCAM'])
def test_grad_cam(method: str, layer: str) -> None:
    cam, x = client('pytorch_grad_cam'), images()

    def heat(model: nn.Module) -> torch.Tensor:
        with getattr(cam, method)(model=model, target_layers=[LAYERS[layer](model)]) as run:
            return torch.from_numpy(run(input_tensor=x, targets=None))

    assert_same_evidence(heat, 1e-3)
