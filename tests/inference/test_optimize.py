"""Models optimised for inference compute the same logits, and answer the same calls."""

import copy
import functools
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from peers import random_images, randomize_
from timm.models import reparameterize_model
from torch import nn
from torch._dynamo.testing import CompileCounter

from coatnet_zoo import CoAtNet, optimize_for_inference
from coatnet_zoo.inference import microbatch
from coatnet_zoo.network import expand_rel_pos_table
from coatnet_zoo.network.fold import BATCH_NORMS
from coatnet_zoo.registry import SIZES, list_impls

NAMES = ('coatnet_nano', 'coatnet_0', 'coatnet_1', 'coatnet_2')
VARIANTS = [(name, impl) for name in NAMES for impl in list_impls(name)]
SMALL = dict(stem_width=(8, 16), embed_dim=(16, 32, 32, 64), depths=(1, 2, 2, 1), dim_head=16, num_classes=10)


def create(size: str = 'coatnet_1', impl: str = 'timm', **kwargs) -> nn.Module:
    return randomize_(timm.create_model(size, impl=impl, **{'img_size': 64, **SMALL, **kwargs}))


def num_norms(model: nn.Module) -> int:
    return sum(isinstance(m, BATCH_NORMS) for m in model.modules())


def assert_same(optimized: nn.Module, model: nn.Module, *sizes: int | tuple[int, int], batch: int = 2) -> None:
    for size in sizes:
        x = random_images(batch, model.in_chans, size)
        with torch.inference_mode():
            torch.testing.assert_close(optimized(x), model(x), rtol=0, atol=1e-4)


def test_every_implementation_is_covered() -> None:
    assert {impl for _, impl in VARIANTS} == {impl for size in SIZES for impl in list_impls(size)}


@pytest.mark.parametrize('size, impl', VARIANTS)
def test_logits_stay_the_same_at_every_size(size: str, impl: str) -> None:
    """Of the optimised model, and of a model that timm's function folds."""
    model = create(size, impl)
    before = copy.deepcopy(model.state_dict())
    optimized = optimize_for_inference(model)
    assert_same(optimized, model, 64, 50, (96, 64))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    # Only those followed by an activation, where a block begins, cannot be folded; and the final one.
    left = sum(SMALL['depths'][:2]) if model.cfg.pre_norm_act else 0
    folded = reparameterize_model(model)
    assert num_norms(optimized) == num_norms(folded) == left + (impl == 'timm_bn') < num_norms(model)
    assert_same(folded, model, 64)
    assert_same(reparameterize_model(folded), folded, 64)


@pytest.mark.parametrize('pool_type', ['max', 'max2', 'avg2'])
@pytest.mark.parametrize('attn_pool_first', [False, True])
@torch.no_grad()
def test_norms_are_folded_across_pooling_only_where_that_is_exact(pool_type: str, attn_pool_first: bool) -> None:
    model = create('coatnet_0', 'timm_bn', pool_type=pool_type, attn_pool_first=attn_pool_first)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight[::2].neg_()
    optimized = optimize_for_inference(model)
    is_folded = isinstance(optimized.stages[2].blocks[0].norm1.norm, nn.Identity)
    assert is_folded == (attn_pool_first or pool_type == 'avg2')
    assert_same(optimized, model, 96)


@pytest.mark.parametrize('impl', ['paper', 'timm_rmlp'])
@torch.no_grad()
def test_positions_of_the_native_size_are_computed_once(impl: str) -> None:
    """Of a feature map that is not square. Of larger maps, the table is kept."""
    model = create('coatnet_1', impl, img_size=(128, 416))
    optimized = optimize_for_inference(model)
    with pytest.raises(ValueError, match='img_size'):
        optimized.set_input_size(16)  # changes nothing
    kept, plain = (m.stages[3].blocks[0].attn.rel_pos for m in (optimized, model))
    torch.testing.assert_close(kept(4, 13), expand_rel_pos_table(plain(4, 13), 4, 13), rtol=0, atol=1e-6)
    kept_table, plain_table = (m.stages[2].blocks[0].attn.rel_pos for m in (optimized, model))
    torch.testing.assert_close(kept_table(8, 26), plain_table(8, 26), rtol=0, atol=1e-6)
    biases = [b.nbytes for name, b in optimized.named_buffers() if name.endswith('rel_pos.bias') and b.ndim == 3]
    assert 0 < sum(biases) <= sum(p.nbytes for p in model.parameters()) / 10
    assert kept(13, 4).shape == plain(13, 4).shape
    for changed in (model, optimized):
        changed.set_input_size(96)
    assert_same(optimized, model, 96, (128, 416))


@torch.no_grad()
def test_large_batches_are_computed_in_about_equal_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of as many images as fit, by the widest layer of a stage at the size of its input."""
    model = create()
    optimized = optimize_for_inference(model)
    stage = optimized.stages[0]
    monkeypatch.setattr(microbatch, '_LARGEST', 3 * 4 * 32 * 32 * microbatch.widest_layer(stage))
    seen: list[int] = []
    stage.blocks[0].conv2_kxk.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    for batch in (1, 3, 4, 7, 8):
        assert_same(optimized, model, 64, batch=batch)
    assert seen == [1, 3, 2, 2, 3, 2, 2, 3, 3, 2]


@torch.no_grad()
def test_the_bias_of_all_pairs_is_not_made_for_large_images() -> None:
    model = create('coatnet_1', 'paper', depths=(1, 1, 1, 1))
    optimized, x = optimize_for_inference(model), random_images(1, 3, 672)
    expected = model(x)
    with torch.profiler.profile(profile_memory=True) as record:
        torch.testing.assert_close(optimized(x), expected, rtol=0, atol=1e-4)
    assert max(event.self_cpu_memory_usage for event in record.events()) < 4 * 2 * (42 * 42) ** 2


@pytest.mark.parametrize('dtype, most', [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
@pytest.mark.parametrize('impl', ['timm', 'paper', 'chinhsuanwu'])
@torch.inference_mode()
def test_lower_precision_takes_and_gives_float32(impl: str, dtype: torch.dtype, most: float) -> None:
    model = create('coatnet_1', impl)
    x = random_images(2, 3, 64)
    for optimized in (optimize_for_inference(model, dtype), optimize_for_inference(copy.deepcopy(model).to(dtype))):
        assert {p.dtype for p in optimized.parameters()} == {dtype}
        logits = optimized(x)
        assert logits.dtype == torch.float32
        assert 1e-5 < (logits - model(x)).abs().max() / model(x).abs().max() < most


X = torch.linspace(-2, 2, 3 * 3 * 32 * 48).reshape(3, 3, 32, 48).sin()


@pytest.fixture(scope='module')
def model() -> nn.Module:
    rates = dict(drop_rate=0.5, drop_path_rate=0.5, proj_drop_rate=0.5, attn_drop_rate=0.5)
    return create(img_size=(32, 48), **rates)


@pytest.fixture(scope='module')
def optimized(model: nn.Module) -> nn.Module:
    return optimize_for_inference(model)


def reloaded(model: nn.Module) -> nn.Module:
    other = optimize_for_inference(create(img_size=(32, 48)))
    nn.init.ones_(other.head.fc.bias)
    other.load_state_dict(model.state_dict())
    return other


WORKS: dict[str, Callable[[nn.Module], torch.Tensor]] = {
    'deepcopy': lambda m: copy.deepcopy(m)(X),
    'pickle': lambda m: pickle.loads(pickle.dumps(m))(X),
    'state_dict': lambda m: reloaded(m)(X),
    'double': lambda m: copy.deepcopy(m).double()(X),
    'parts': lambda m: m.forward_head(m.forward_features(X)),
    'intermediates': lambda m: m.forward_head(m.forward_intermediates(X)[0]),
    'exported': lambda m: torch.export.export(m, (X,)).module()(X),
    'strides': lambda m: m(X.flip(3).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).flip(3)),
    'reparameterised': lambda m: reparameterize_model(m)(X),
    'no images': lambda m: torch.cat([m(X[:0]), m(X)]),
}  # fmt: skip


@pytest.mark.parametrize('call', WORKS.values(), ids=WORKS)
@torch.no_grad()
def test_works(model: nn.Module, optimized: nn.Module, call: Callable[[nn.Module], torch.Tensor]) -> None:
    torch._dynamo.reset()
    torch.testing.assert_close(call(optimized), model(X), rtol=0, atol=1e-5)


def test_weights_are_folded_and_need_no_gradients(model: nn.Module, optimized: nn.Module) -> None:
    assert not optimized(X).requires_grad
    assert not optimized.training
    assert optimized.pretrained_cfg == model.pretrained_cfg
    ours, theirs = X.clone().requires_grad_(), X.clone().requires_grad_()
    optimized(ours).square().sum().backward()
    model(theirs).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)
    with pytest.raises(RuntimeError, match=r'Missing key.*stem\.conv1\.bias'):
        optimized.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert not any(p.is_inference() for p in optimize_for_inference(model).parameters())


@torch.no_grad()
def test_compile_compiles_calls_of_the_model(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """And copies compute the same."""
    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend=counter))
    compiled = optimize_for_inference(model, compile=True)
    for m in (compiled, copy.deepcopy(compiled), compiled):
        torch.testing.assert_close(m(X), model(X), rtol=0, atol=1e-5)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    'x, error, message',
    [
        ((255 * X).to(torch.uint8), TypeError, 'normalised images as floating-point tensors; got torch.uint8'),
        (X.numpy(), TypeError, 'got ndarray'),
        (X[:, :2], ValueError, r'shape \(B, 3, H, W\), got \(3, 2, 32, 48\)'),
        (X[:, :, :31], AssertionError, 'at least 32x32 pixels'),
    ],
)
def test_images_of_the_wrong_kind(optimized: nn.Module, x: Any, error: type[Exception], message: str) -> None:
    for call in (optimized, optimized.forward_features, optimized.forward_intermediates):
        with pytest.raises(error, match=message) as e:
            call(x)
        assert '\n' not in str(e.value)


WRAPPED: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    'optimised': (optimize_for_inference, 'already optimised; optimise the model that it was made from'),
    'data parallel': (nn.DataParallel, 'not DataParallel; pass the one inside it, model.module.'),
    'subclass': (lambda m: type('Subclass', (CoAtNet,), {})(m.cfg), 'needs a CoAtNet, not Subclass.'),
}


@pytest.mark.parametrize('wrap, message', WRAPPED.values(), ids=WRAPPED)
def test_what_to_hand_over(model: nn.Module, wrap: Callable[[nn.Module], nn.Module], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        optimize_for_inference(wrap(copy.deepcopy(model)))
