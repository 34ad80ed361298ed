"""Everything that one may ask of an optimised model: it works, or one sentence says what to do instead."""

import copy
import functools
import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from peers import randomize_
from timm.models import reparameterize_model, save_for_hf
from timm.utils import ModelEmaV3
from torch import nn
from torch.autograd import forward_ad

from coatnet_zoo import CoAtNet, optimize_for_inference

STAGES = dict(impl='timm', stem_width=(8, 8), embed_dim=(8, 16), depths=(1, 1), block_types='CT', dim_head=8)
X = torch.linspace(-2, 2, 3 * 3 * 32 * 48).reshape(3, 3, 32, 48).sin()


@pytest.fixture(scope='module')
def model() -> nn.Module:
    rates = dict(drop_rate=0.5, drop_path_rate=0.5, proj_drop_rate=0.5, attn_drop_rate=0.5)
    return randomize_(timm.create_model('coatnet_0', img_size=(32, 48), num_classes=5, **STAGES, **rates))


@pytest.fixture(scope='module')
def optimized(model: nn.Module) -> nn.Module:
    return optimize_for_inference(model)


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def inference_tensor() -> torch.Tensor:
    with torch.inference_mode():
        return X.clone()


def under_autocast(model: nn.Module) -> torch.Tensor:
    with torch.autocast('cpu', torch.bfloat16):
        return model(X)


WORKS: dict[str, Callable[[nn.Module], torch.Tensor]] = {
    'again': lambda m: m(X),
    'deepcopy': lambda m: copy.deepcopy(m)(X),
    'pickle': lambda m: pickle.loads(pickle.dumps(m))(X),
    'torch.save': lambda m: saved(m)(X),
    'eval': lambda m: m.eval()(X),
    'train(False)': lambda m: m.train(False)(X),
    'to where it is': lambda m: m.to('cpu')(X),
    'to what it is': lambda m: m.float()(X),
    'channels last': lambda m: m.to(memory_format=torch.channels_last)(X),
    'requires_grad_(False)': lambda m: m.requires_grad_(False)(X),
    'parts': lambda m: m.forward_head(m.forward_features(X)),
    'intermediates': lambda m: m.forward_head(m.forward_intermediates(X)[0]),
    'compiled': lambda m: torch.compile(m, backend='eager')(X),
    'autocast': under_autocast,
    'inference tensor': lambda m: m(inference_tensor()),
    'float64': lambda m: m(X.double()),
    'strides': lambda m: m(X.flip(3).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).flip(3)),
    'slices': lambda m: m(torch.stack([X, X], 4)[..., 1]),
    'reparameterised': lambda m: reparameterize_model(m)(X),
    'no images': lambda m: torch.cat([m(X[:0]), m(X)]),
    'no images, features': lambda m: m.forward_head(torch.cat([m.forward_features(X[:0]), m.forward_features(X)])),
    'each image': lambda m: torch.cat([m(x[None]) for x in X]),
}


@pytest.mark.parametrize('call', WORKS.values(), ids=WORKS)
def test_works(model: nn.Module, optimized: nn.Module, call: Callable[[nn.Module], torch.Tensor]) -> None:
    torch._dynamo.reset()
    y = call(optimized)
    assert not y.requires_grad
    torch.testing.assert_close(y, model(X).detach(), rtol=0, atol=1e-5)


def test_copies_compute_the_same_bit_for_bit(optimized: nn.Module) -> None:
    for copied in (copy.deepcopy(optimized), saved(optimized)):
        assert torch.equal(copied(X), optimized(X))


def test_another_classifier(model: nn.Module, optimized: nn.Module) -> None:
    changed = copy.deepcopy(optimized)
    changed.reset_classifier(7)
    assert changed(X).shape == (3, 7)
    changed.reset_classifier(0)
    expected = model.forward_head(model.forward_features(X), pre_logits=True).detach()
    torch.testing.assert_close(changed(X), expected, rtol=0, atol=1e-5)
    changed.prune_intermediate_layers([1])
    (features,) = changed.forward_intermediates(X, [1], intermediates_only=True)
    torch.testing.assert_close(features, model.forward_intermediates(X)[1][1].detach(), rtol=0, atol=1e-5)


def dual(model: nn.Module) -> None:
    with forward_ad.dual_level():
        model(forward_ad.make_dual(X, X))


REFUSED: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    'train': (lambda m: m.train(), 'cannot be trained'),
    'train as a part': (lambda m: nn.Sequential(m).train(), 'cannot be trained'),
    'saliency': (lambda m: m(X.clone().requires_grad_()), 'gives no gradients'),
    'saliency of features': (lambda m: m.forward_features(X.clone().requires_grad_()), 'gives no gradients'),
    'requires_grad_': (lambda m: m.requires_grad_(), 'gives no gradients'),
    'func.grad': (lambda m: torch.func.grad(lambda x: m(x).sum())(X), 'gives no gradients'),
    'jvp': (lambda m: torch.func.jvp(m, (X,), (X,)), 'gives no derivatives'),
    'dual numbers': (dual, 'gives no derivatives'),
    'vmap': (lambda m: torch.func.vmap(lambda x: m(x[None]))(X), 'not for torch.func'),
    'state_dict': (lambda m: m.state_dict(), 'has no state dict'),
    'state_dict as a part': (lambda m: nn.Sequential(m).state_dict(), 'has no state dict'),
    'load_state_dict': (lambda m: m.load_state_dict({}, strict=False), 'takes no other weights'),
    'load_state_dict as a part': (lambda m: nn.Sequential(m).load_state_dict({}, strict=False), 'no other weights'),
    'init_weights': (lambda m: m.init_weights(), 'takes no other weights'),
    'half': (lambda m: m.half(), 'stays in torch.float32 on cpu'),
    'double': (lambda m: m.to(torch.float64), 'stays in torch.float32 on cpu'),
    'meta': (lambda m: nn.Sequential(m).to('meta'), 'stays in torch.float32 on cpu'),
    'set_input_size': (lambda m: m.set_input_size(64), 'keeps its native size'),
    'trace': (lambda m: torch.jit.trace(m, X), 'cannot be traced or exported'),
    'script': (torch.jit.script, 'cannot be scripted'),
    'export': (lambda m: torch.export.export(m, (X,)), 'cannot be traced or exported'),
    'onnx': (lambda m: torch.onnx.export(m, (X,), io.BytesIO(), dynamo=False), 'has no state dict'),
    'save_for_hf': (lambda m: save_for_hf(m, '/nowhere/at/all'), 'has no state dict|nowhere'),
}  # fmt: skip


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('call, message', REFUSED.values(), ids=REFUSED)
def test_refused(optimized: nn.Module, call: Callable[[nn.Module], Any], message: str) -> None:
    before = optimized(X)
    with pytest.raises((RuntimeError, OSError), match=message) as e:
        call(optimized)
    assert e.type is not RuntimeError or str(e.value).endswith('then optimise the original model again.')
    assert torch.equal(optimized(X), before) and not any(m.training for m in optimized.modules())


@pytest.mark.parametrize(
    'x, error, message',
    [
        ((255 * X).to(torch.uint8), TypeError, 'floating-point numbers, normalised; got torch.uint8'),
        (X.numpy(), TypeError, 'got ndarray'),
        (X[:, :2], ValueError, r'shape \(B, 3, H, W\), got \(3, 2, 32, 48\)'),
        (X[0], ValueError, r'got \(3, 32, 48\)'),
        (X[:, :, :31], AssertionError, 'at least 32x32 pixels'),
    ],
)
def test_images_of_the_wrong_kind(optimized: nn.Module, x: Any, error: type[Exception], message: str) -> None:
    for call in (optimized, optimized.forward_features, optimized.forward_intermediates):
        with pytest.raises(error, match=message) as e:
            call(x)
        assert '\n' not in str(e.value)


class Subclass(CoAtNet):
    pass


WRAPPED: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    'optimised': (optimize_for_inference, 'optimised already; optimise the model that it was made from'),
    'data parallel': (nn.DataParallel, 'not DataParallel; hand over the one inside it, model.module.'),
    'compiled': (torch.compile, 'not OptimizedModule; hand over the one inside it, model._orig_mod.'),
    'moving average': (ModelEmaV3, 'not ModelEmaV3; hand over the one inside it, model.module.'),
    'deep': (lambda m: nn.Sequential(nn.Identity(), nn.Sequential(m)), 'the one inside it, model.1.0.'),
    'subclass': (lambda m: Subclass(m.cfg, 64), 'needs a CoAtNet, not Subclass.'),
    'features only': (lambda _: timm.create_model('coatnet_atto', features_only=True), 'not FeatureListNet'),
}


@pytest.mark.parametrize('wrap, message', WRAPPED.values(), ids=WRAPPED)
def test_what_to_hand_over(model: nn.Module, wrap: Callable[[nn.Module], nn.Module], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        optimize_for_inference(wrap(copy.deepcopy(model)))


def test_compiled_models_are_copied_and_take_no_images(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='eager'))
    compiled = optimize_for_inference(model, compile=True)
    for m in (compiled, copy.deepcopy(compiled)):
        torch.testing.assert_close(m(X), model(X).detach(), rtol=0, atol=1e-5)
    with pytest.raises(RuntimeError, match='gives no gradients'):
        compiled(X.clone().requires_grad_())
    assert compiled(X[:0]).shape == (0, 5)


@pytest.mark.parametrize(
    'options',
    [{}, dict(rel_attn='post'), dict(rel_attn='none', attn_type='linear'), dict(attn_window=2), dict(impl='timm_rmlp')],
)
def test_no_images(options: dict) -> None:
    """Of plain models and of folded ones, forwards and backwards."""
    options = {**STAGES, 'impl': 'paper', **options}
    model = timm.create_model('coatnet_1', img_size=32, num_classes=5, **options).eval()
    for m in (model, reparameterize_model(model)):
        assert m(torch.zeros(0, 3, 32, 64)).shape == (0, 5)
    model(torch.zeros(0, 3, 32, 64)).sum().backward()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_float64_models_stay_in_float64(model: nn.Module) -> None:
    exact = copy.deepcopy(model).double()
    optimized = optimize_for_inference(exact)
    assert optimized.dtype == torch.float64
    torch.testing.assert_close(optimized(X), exact(X.double()).detach().float(), rtol=0, atol=1e-6)
