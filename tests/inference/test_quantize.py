"""Eight-bit models answer as those that they were made from."""

import shutil
import sys

import pytest
import timm
import torch
from peers import relative_error
from torch import nn

from coatnet_zoo import optimize_for_inference
from scripts.train_digits import digits

pytest.importorskip('torchao', reason='needs the extra quantize')


def agreement(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[float, float]:
    """Share of equal answers, and the largest difference of logits by the largest logit."""
    return (ours.argmax(1) == theirs.argmax(1)).float().mean().item(), relative_error(ours, theirs)


@pytest.fixture(scope='module')
def model() -> nn.Module:
    return timm.create_model('coatnet_atto.digits', pretrained=True).eval()


@torch.inference_mode()
def test_bfloat16_agrees_on_held_out_digits(model: nn.Module) -> None:
    images, _ = digits(train=False)
    same, difference = agreement(optimize_for_inference(model, dtype=torch.bfloat16)(images), model(images))
    assert same >= 0.99
    assert 0 < difference < 0.03


@torch.inference_mode()
def test_int8_agrees_on_held_out_digits(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """The integers' values, simulated in floating point, as compiling takes long."""
    monkeypatch.setattr('coatnet_zoo.inference.optimize.Frozen', lambda part, name: part)
    (train, _), (images, _) = digits(train=True), digits(train=False)
    quantized = optimize_for_inference(model, quantize='int8', calibration=train[:32])
    for batch in (images, images[:1]):
        same, difference = agreement(quantized(batch), model(batch))
        assert same >= 0.985
        assert 0.001 < difference < 0.06
    with pytest.raises(ValueError, match=r'takes only images of \(1, 64, 64\), got \(1, 32, 64\)'):
        quantized(images[:, :, :32])


@pytest.mark.skipif(shutil.which('g++') is None, reason='needs a C++ compiler')
@torch.inference_mode()
def test_compiled_int8_computes_with_integers() -> None:
    torch._dynamo.reset()
    args = dict(embed_dim=(16, 32), depths=(1, 1), block_types='CT', img_size=32)
    model = timm.create_model('coatnet_atto', **args).eval()
    images = torch.rand(4, 1, 32, 32)
    quantized = optimize_for_inference(model, quantize='int8', calibration=images)
    quantized(images)
    with torch.profiler.profile() as record:
        logits = quantized(images)
    names = {event.key for event in record.key_averages()}
    assert {'onednn::qlinear_pointwise', 'onednn::qconv_pointwise'} <= names
    assert agreement(logits, model(images))[1] < 0.1


@torch.inference_mode()
def test_one_image_is_enough_to_calibrate(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('coatnet_zoo.inference.optimize.Frozen', lambda part, name: part)
    images, _ = digits(train=True)
    quantized = optimize_for_inference(model, quantize='int8', calibration=images[:1])
    assert 0.001 < agreement(quantized(images[:1]), model(images[:1]))[1] < 0.06


def test_bad_arguments(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.zeros(2, 1, 64, 64)
    for kwargs, error, message in (
        (dict(quantize='int4', calibration=images), ValueError, "quantize='int4' does not exist; there is 'int8'"),
        (dict(quantize='int8'), ValueError, r'needs calibration=images.*got nothing'),
        (dict(quantize='int8', calibration=images[0]), ValueError, r'\(B, 1, H, W\); got \(1, 64, 64\)'),
        (dict(quantize='int8', calibration=images[:0]), ValueError, r'got \(0, 1, 64, 64\)'),
        (dict(quantize='int8', calibration=images.expand(-1, 3, -1, -1)), ValueError, r'got \(2, 3, 64, 64\)'),
        (dict(quantize='int8', calibration=images, dtype=torch.bfloat16), ValueError, 'leave out dtype'),
    ):
        with pytest.raises(error, match=message):
            optimize_for_inference(model, **kwargs)
    monkeypatch.setitem(sys.modules, 'torchao', None)
    with pytest.raises(ImportError, match=r"pip install 'coatnet-zoo\[quantize\]'"):
        optimize_for_inference(model, quantize='int8', calibration=images)
