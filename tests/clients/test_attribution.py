"""captum and grad-cam: which pixels speak for a class, the same as with timm's network of the same weights."""

from collections.abc import Callable

import numpy as np
import pytest
from clients import assert_same, client, images, small
from torch import nn

METHODS = {
    'IntegratedGradients': dict(n_steps=8),
    'Saliency': {},
    'DeepLift': {},
    'GuidedBackprop': {},
    'Occlusion': dict(sliding_window_shapes=(3, 32, 32), strides=(3, 32, 32)),
}
LAYERS = {'stage 4': lambda m: m.stages[-1], 'stage 2': lambda m: m.stages[1], 'norm': lambda m: m.norm}


@pytest.mark.parametrize('method', METHODS)
def test_captum(method: str) -> None:
    captum, x = client('captum.attr'), images()
    ours, theirs = (
        getattr(captum, method)(small(whose).eval()).attribute(x, target=1, **METHODS[method]).detach()
        for whose in ('ours', "timm's")
    )
    assert ours.shape == x.shape and ours.std() > 0
    assert_same(ours, theirs, abs=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize('layer', LAYERS)
def test_captum_of_a_layer(layer: str) -> None:
    captum, x = client('captum.attr'), images()

    def evidence(model: nn.Module) -> object:
        return captum.LayerGradCam(model, LAYERS[layer](model)).attribute(x, target=1).detach()

    ours, theirs = (evidence(small(whose).eval()) for whose in ('ours', "timm's"))
    assert ours.std() > 0
    assert_same(ours, theirs, abs=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize('layer', LAYERS)
@pytest.mark.parametrize('method', ['GradCAM', 'GradCAMPlusPlus', 'EigenCAM'])
def test_grad_cam(method: str, layer: str) -> None:
    cam, x = client('pytorch_grad_cam'), images()

    def heat(model: nn.Module, layer: Callable[[nn.Module], nn.Module]) -> np.ndarray:
        with getattr(cam, method)(model=model, target_layers=[layer(model)]) as run:
            return run(input_tensor=x, targets=None)

    ours, theirs = (heat(small(whose).eval(), LAYERS[layer]) for whose in ('ours', "timm's"))
    assert ours.shape == (2, 64, 64) and np.isfinite(ours).all()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
