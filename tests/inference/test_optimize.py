"""Models optimised for inference compute what they did before."""

import copy
import functools

import pytest
import timm
import torch
from peers import random_images, randomize_
from timm.models import reparameterize_model
from torch import nn

from coatnet_zoo import optimize_for_inference
from coatnet_zoo.inference import optimize, precision
from coatnet_zoo.network import Attention, ExpandedRelPos, parts
from coatnet_zoo.registry import SIZES, list_impls

VARIANTS = [
    (size, impl) for size in ('coatnet_nano', 'coatnet_0', 'coatnet_1', 'coatnet_2') for impl in list_impls(size)
]
STAGES = dict(img_size=64, depths=(1, 2, 2, 1), num_classes=10)


def create(size: str, impl: str, **kwargs) -> nn.Module:
    return randomize_(timm.create_model(size, impl=impl, **{**STAGES, **kwargs}))


def num_norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_every_implementation_is_covered() -> None:
    assert {impl for _, impl in VARIANTS} == {impl for size in SIZES for impl in list_impls(size)}


@pytest.mark.parametrize('size, impl', VARIANTS)
@torch.inference_mode()
def test_logits_stay_the_same_at_every_size(size: str, impl: str) -> None:
    model = create(size, impl)
    before = copy.deepcopy(model.state_dict())
    optimized = optimize_for_inference(model)
    for img_size in (64, 50, (96, 64)):
        x = random_images(2, 3, img_size)
        torch.testing.assert_close(optimized(x), model(x), rtol=0, atol=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    # Only those followed by an activation, where a block begins, cannot be folded; and the final one.
    left = sum(STAGES['depths'][:2]) if model.cfg.pre_norm_act else 0
    assert num_norms(optimized) == left + (impl == 'timm_bn') < num_norms(model)


@pytest.mark.parametrize('size, impl', VARIANTS)
@torch.inference_mode()
def test_timms_reparameterisation(size: str, impl: str) -> None:
    model = create(size, impl)
    x = random_images(2, 3, 64)
    once = reparameterize_model(model)
    assert num_norms(once) < num_norms(model)
    torch.testing.assert_close(once(x), model(x), rtol=0, atol=1e-4)
    torch.testing.assert_close(reparameterize_model(once)(x), once(x), rtol=0, atol=0)


@pytest.mark.parametrize('pool_type', ['max', 'max2', 'avg2'])
@pytest.mark.parametrize('attn_pool_first', [False, True])
@torch.inference_mode()
def test_norms_are_folded_across_pooling_only_where_that_is_exact(pool_type: str, attn_pool_first: bool) -> None:
    options = dict(pool_type=pool_type, attn_pool_first=attn_pool_first)
    model = create('coatnet_0', 'timm_bn', **options)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight[::2].neg_()
    folded = reparameterize_model(model)
    is_folded = isinstance(folded.stages[2].blocks[0].norm1.norm, nn.Identity)
    assert is_folded == (attn_pool_first or pool_type == 'avg2')
    x = random_images(2, 3, 96)
    torch.testing.assert_close(folded(x), model(x), rtol=0, atol=1e-4)


@torch.inference_mode()
def test_norms_without_a_scale_stay_where_squeeze_excite_would_divide_by_it() -> None:
    model = create('coatnet_0', 'timm')
    block = model.stages[0].blocks[0]
    block.norm2.weight[0] = 0
    folded = reparameterize_model(model)
    assert folded.stages[0].blocks[0].norm2.weight[0] == 0
    x = random_images(2, 3, 64)
    torch.testing.assert_close(folded(x), model(x), rtol=0, atol=1e-4)


@torch.inference_mode()
def test_position_tables_of_the_native_size_are_expanded_once() -> None:
    model = create('coatnet_1', 'paper')
    optimized = copy.deepcopy(model)
    optimize._replace_attention(optimized, on_cpu=True, compile=True)
    ours = next(m for m in optimized.modules() if isinstance(m, ExpandedRelPos))
    assert ours(4, 4).data_ptr() == ours(4, 4).data_ptr()
    assert ours(4, 4).is_contiguous()  # or attention would copy it
    torch.testing.assert_close(ours(4, 4), model.stages[2].blocks[0].attn.rel_pos(4, 4), rtol=0, atol=0)


@torch.inference_mode()
def test_models_that_are_not_compiled_keep_small_tables_only() -> None:
    """A network that computes positions is called once for the native size."""
    model = create('coatnet_1', 'timm_rmlp')
    optimized = optimize_for_inference(model)
    rel_pos = next(m.rel_pos for m in optimized.modules() if isinstance(m, Attention))
    calls: list[object] = []
    rel_pos.rel_pos.mlp.register_forward_hook(lambda *_: calls.append(_))
    for size in ((4, 4), (4, 6)):
        expected = model.stages[2].blocks[0].attn.rel_pos(*size)
        torch.testing.assert_close(rel_pos(*size), expected, rtol=0, atol=1e-6)
        assert rel_pos.table(*size).shape == ((2 * size[0] - 1) * (2 * size[1] - 1), expected.shape[1])
    assert len(calls) == 2  # both for the second size
    for model in (optimized, optimize_for_inference(create('coatnet_1', 'paper'))):
        assert not any(isinstance(m, ExpandedRelPos) for m in model.modules())


@pytest.mark.parametrize('compile', [False, True])
@torch.no_grad()
def test_large_batches_are_computed_in_parts(compile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every size of batch, also where the parts cannot be equal."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='eager'))
    model = create('coatnet_1', 'timm', depths=(1, 1, 1, 1))
    monkeypatch.setattr('coatnet_zoo.network.parts._LARGEST', 3 * 4 * 32 * 32 * 64 * 4)  # three images' largest tensors
    optimized = optimize_for_inference(model, compile=compile)
    optimized.streams = False  # the parts of one thread
    seen: list[int] = []
    optimized.stages[0].module.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    for n in (1, 3, 4, 7, 8):
        x = random_images(n, 3, 64)
        torch.testing.assert_close(optimized(x), model(x), rtol=0, atol=1e-4)
    assert seen == ([1, 3, 2, 2, 3, 3, 3, 3, 3, 3] if compile else [1, 3, 2, 2, 3, 3, 1, 3, 3, 2])


def test_parts_of_a_batch_are_about_equal() -> None:
    limit = parts._LARGEST
    assert [parts.chunk_size(n, limit / 3) for n in (1, 2, 3, 4, 6, 7, 8)] == [1, 2, 3, 2, 3, 3, 3]
    assert parts.chunk_size(8, 10 * limit) == 1


@torch.no_grad()
def test_every_part_is_compiled_once_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of one class, of several models: none counts as another one with changed sizes."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='eager'))
    model = create('coatnet_1', 'timm')
    for n in (2, 3, 2):
        optimized = optimize_for_inference(model, compile=True)
        x = random_images(n, 3, 64)
        with torch._dynamo.config.patch(error_on_recompile=True):
            torch.testing.assert_close(optimized(x), model(x), rtol=0, atol=1e-4)
            optimized(x)


@pytest.mark.parametrize('impl', ['timm', 'paper', 'chinhsuanwu'])
@torch.inference_mode()
def test_lower_precision_takes_and_gives_float32(impl: str) -> None:
    model = create('coatnet_1', impl)
    optimized = optimize_for_inference(model, dtype=torch.bfloat16)
    assert {p.dtype for p in optimized.parameters()} == {torch.bfloat16}
    x = random_images(2, 3, 64)
    logits = optimized(x)
    assert logits.dtype == torch.float32
    assert 1e-4 < (logits - model(x)).abs().max() / model(x).abs().max() < 0.05


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('is_slower', [True, False])
@torch.inference_mode()
def test_lower_precision_is_used_with_a_warning_where_it_is_slower(
    dtype: torch.dtype, is_slower: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Asked for by argument, or by a model that has it; and where the CPU has no packed layers for it."""
    monkeypatch.setattr('coatnet_zoo.inference.optimize.multiplies_slower', lambda dtype: is_slower)
    rounded = create('coatnet_1', 'timm').to(dtype).float()
    models = [optimize_for_inference(rounded, dtype), optimize_for_inference(copy.deepcopy(rounded).to(dtype))]
    warning = f'This CPU multiplies matrices more slowly in {dtype} than in float32; optimise with dtype=torch.float32.'
    assert caplog.messages == [warning] * 2 * is_slower
    x = random_images(2, 3, 64)
    for optimized in models:
        assert {p.dtype for p in optimized.parameters()} == {dtype}
        assert 1e-5 < (optimized(x) - rounded(x)).abs().max() / rounded(x).abs().max() < 0.05
    caplog.clear()
    optimize_for_inference(rounded)
    assert not caplog.messages


@pytest.mark.parametrize('seconds, slower', [(0.5, False), (2.0, True)])
def test_what_is_slower_is_measured(seconds: float, slower: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, '_seconds', lambda dtype: seconds if dtype == torch.bfloat16 else 1.0)
    assert precision.multiplies_slower.__wrapped__(torch.bfloat16) is slower


@pytest.mark.parametrize('seconds, products', [(0.02, 3), (3.0, 1)])
def test_a_slow_precision_is_measured_once(seconds: float, products: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in float16 take seconds on CPUs without float16."""
    clock, counted = [0.0], []

    def multiply(a: torch.Tensor, _: torch.Tensor) -> None:
        counted.append(a.dtype)
        clock[0] += seconds

    monkeypatch.setattr(torch, 'mm', multiply)
    monkeypatch.setattr(precision.time, 'perf_counter', lambda: clock[0])
    assert precision._seconds(torch.float16) == pytest.approx(seconds)
    assert counted == [torch.float16] * products


def test_other_models_are_refused() -> None:
    with pytest.raises(TypeError, match='needs a CoAtNet, not Linear'):
        optimize_for_inference(nn.Linear(2, 2))
