"""captum and grad-cam: which pixels speak for a class."""

from collections.abc import Callable

import pytest
import torch
from clients import assert_same, client, images, small, whose


@whose()
@pytest.mark.parametrize('method', ['IntegratedGradients', 'Saliency', 'DeepLift', 'GuidedBackprop'])
def test_captum(whose: str, method: str) -> None:
    captum = client('captum.attr')
    model, x = small(whose).eval(), images()
    options = dict(n_steps=32) if method == 'IntegratedGradients' else {}
    evidence = getattr(captum, method)(model).attribute(x, target=1, **options)
    assert evidence.shape == x.shape and evidence.std() > 0
    if options:  # the evidence of the pixels adds up to the difference of the logits
        expected = model(x)[:, 1] - model(torch.zeros_like(x))[:, 1]
        torch.testing.assert_close(evidence.sum((1, 2, 3)).float(), expected, rtol=0.1, atol=0.1)


@whose()
@pytest.mark.parametrize('layer', [lambda m: m.stages[-1], lambda m: m.stages[1], lambda m: m.norm], ids='413')
def test_captum_of_a_layer(whose: str, layer: Callable) -> None:
    captum = client('captum.attr')
    model = small(whose).eval()
    evidence = captum.LayerGradCam(model, layer(model)).attribute(x := images(), target=1)
    theirs = small("timm's").eval()
    assert_same(evidence, captum.LayerGradCam(theirs, layer(theirs)).attribute(x, target=1))


@whose()
@pytest.mark.parametrize('method', ['GradCAM', 'LayerCAM', 'EigenCAM'])
def test_grad_cam(whose: str, method: str) -> None:
    cam = client('pytorch_grad_cam')
    model = small(whose).eval()
    with getattr(cam, method)(model=model, target_layers=[model.stages[-1]]) as run:
        heat = run(input_tensor=images(), targets=None)
    assert heat.shape == (2, 64, 64) and torch.from_numpy(heat).std() > 0
