"""Lower precision, memory formats and compilation stay close to eager float32, forwards and backwards.

The model of the tests is random, with random statistics; errors are relative to the largest logit or gradient.
"""

import pytest
import timm
import torch
from peers import randomize_

IMPLS = ['timm', 'timm_bn', 'timm_rmlp', 'paper', 'chinhsuanwu']
FORMS = [dict(rel_attn='post', attn_window=3), dict(rel_attn='none', attn_type='linear')]
STAGES = dict(stem_width=(16, 24), embed_dim=(32, 32, 64, 96), depths=(1, 2, 2, 1), img_size=64, num_classes=10)
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no CUDA device')
DEVICES = ['cpu', pytest.param('cuda', marks=NO_CUDA)]
# bfloat16 has 8 bits of mantissa, float16 11.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}

pytestmark = pytest.mark.parametrize('device', DEVICES)


def create(impl: str, device: str, **kwargs) -> torch.nn.Module:
    size = 'coatnet_0' if impl == 'timm_bn' else 'coatnet_1'
    return randomize_(timm.create_model(size, impl=impl, **{**STAGES, **kwargs})).to(device)


def images(device: str) -> torch.Tensor:
    return torch.randn(2, 3, 64, 96).to(device)


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    assert actual.shape == expected.shape and actual.isfinite().all()
    return ((actual.float() - expected).abs().max() / expected.abs().max()).item()


def assert_finite_gradients(model: torch.nn.Module) -> None:
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
    assert all(p.grad.any() for p in model.parameters())


@pytest.mark.parametrize('autocast', [True, False])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('impl, form', [*((impl, {}) for impl in IMPLS), *(('paper', form) for form in FORMS)], ids=str)
def test_low_precision(impl: str, form: dict, dtype: torch.dtype, autocast: bool, device: str) -> None:
    model, x = create(impl, device, **form), images(device)
    with torch.no_grad():
        expected = model(x)
    if not autocast:
        model, x = model.to(dtype), x.to(dtype)
    with torch.no_grad(), torch.autocast(device, dtype, enabled=autocast):
        logits = model(x)
    assert logits.dtype == dtype
    assert error(logits, expected) < (1 if autocast else 1.5) * TOLERANCE[dtype]
    with torch.autocast(device, dtype, enabled=autocast):
        loss = model.train()(x).float().square().mean()
    loss.backward()
    assert_finite_gradients(model)


@pytest.mark.parametrize('impl', IMPLS)
def test_channels_last_goes_in_and_comes_out(impl: str, device: str) -> None:
    model = create(impl, device)
    x = images(device)
    expected = model.forward_intermediates(x, intermediates_only=True)
    expected_logits = model(x)
    model.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
    for ours, theirs in zip(model.forward_intermediates(x, intermediates_only=True), expected, strict=True):
        assert ours.is_contiguous(memory_format=torch.channels_last)
        assert error(ours, theirs) < TOLERANCE[torch.float32]
    assert model.forward_features(x).is_contiguous(memory_format=torch.channels_last)
    assert error(model(x), expected_logits) < TOLERANCE[torch.float32]
    model.train()(x).square().mean().backward()
    assert_finite_gradients(model)


def test_compiled_training(device: str) -> None:
    torch._dynamo.reset()
    model = create('timm', device, embed_dim=(32, 64), depths=(1, 1), block_types='CT').train()
    x = images(device)
    model(x).square().mean().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    torch.compile(model, backend='aot_eager')(x).square().mean().backward()
    assert_finite_gradients(model)
    largest = max(g.abs().max() for g in expected.values())
    for name, p in model.named_parameters():
        assert (p.grad - expected[name]).abs().max() < 1e-4 * largest, name
