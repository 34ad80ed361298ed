"""Plain models without gradients on CPUs take shorter ways: the same logits, always with the weights as they are."""

import copy
import io
import threading
from collections.abc import Callable

import pytest
import timm
import torch
from peers import random_images, randomize_
from torch import nn

from coatnet_zoo import optimize_for_inference
from coatnet_zoo.network import fused, parts

STAGES = dict(stem_width=(8, 16), embed_dim=(16, 32), depths=(2, 2), block_types='CT', dim_head=8, num_classes=5)
LARGE = dict(stem_width=(4, 8), embed_dim=(8, 16), depths=(1, 1), block_types='CT', dim_head=8, num_classes=5)
IMPLS = {
    'timm': 'coatnet_1',
    'timm_bn': 'coatnet_0',
    'timm_rmlp': 'coatnet_1',
    'timm_rmlp2': 'coatnet_1',
    'paper': 'coatnet_0',
    'chinhsuanwu': 'coatnet_0',
    'keras_cv': 'coatnet_0',
}


def create(impl: str = 'timm', **kwargs) -> nn.Module:
    return randomize_(timm.create_model(IMPLS[impl], impl=impl, img_size=64, **{**STAGES, **kwargs}))


def as_defined(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Logits from the modules one after the other, as gradients need them."""
    with torch.enable_grad():
        return model(x).detach()


def check(model: nn.Module, x: torch.Tensor, mode: Callable = torch.inference_mode) -> None:
    with mode():
        torch.testing.assert_close(model(x), as_defined(model, x), rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, '_SMALL', 1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts of models that take the shorter way."""
    seen: list[str] = []
    for name in ('_layers', '_block'):
        function = getattr(fused, name)

        def call(a: object, b: object, name: str = name, function: Callable = function) -> torch.Tensor:
            seen.append(name)
            return function(a, b)

        monkeypatch.setattr(fused, name, call)
    return seen


ALL = ['_layers', '_block', '_block', '_block', '_block']


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('size', [64, (50, 120)])
@pytest.mark.parametrize('impl', IMPLS)
def test_logits_of_every_impl(impl: str, size: int, layout: torch.memory_format, calls: list[str]) -> None:
    check(create(impl).to(memory_format=layout), random_images(3, 3, size).to(memory_format=layout))
    assert calls == ALL


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize('impl', IMPLS)
@torch.inference_mode()
def test_optimised_models(impl: str, dtype: torch.dtype, tolerance: float, calls: list[str]) -> None:
    """Packed weights, also after a copy, and also where a norm cannot be folded."""
    model = create(impl)
    if impl == 'timm':
        model.stages[0].blocks[1].norm2.weight[0] = 0
    fast = optimize_for_inference(model, dtype=dtype)
    for size in (64, 96):
        x = random_images(3, 3, size)
        for optimized in (fast, copy.deepcopy(fast)):
            calls.clear()
            logits = optimized(x)
            assert calls == ALL
            torch.testing.assert_close(logits, as_defined(model, x), rtol=tolerance, atol=tolerance)
    fast.stages[0].module.blocks[0].register_forward_hook(lambda *_: calls.append('hook'))
    calls.clear()
    torch.testing.assert_close(fast(x), logits, rtol=tolerance, atol=tolerance)
    assert calls == ['_layers', 'hook', '_block', '_block']


@pytest.mark.parametrize(
    'options', [dict(rel_attn='post'), dict(attn_window=3), dict(rel_attn='none'), dict(init_values=1.0)]
)
def test_options(options: dict, calls: list[str]) -> None:
    check(create('paper', **options), random_images(3, 3, 96))
    assert calls == ALL


@pytest.mark.parametrize('impl', ['timm', 'timm_rmlp'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_large_maps(impl: str, dtype: torch.dtype) -> None:
    """32 x 25 positions go row by row, one image or several."""
    model = create(impl, **LARGE).to(dtype)
    for batch in (1, 3):
        check(model, torch.randn(batch, 3, 256, 200, dtype=dtype))


def test_large_batches_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    monkeypatch.setattr(parts, '_LARGEST', 3 * 4 * 32 * 32 * 64)  # three images in the first stage
    check(create(), random_images(7, 3, 64))
    assert calls.count('_layers') == 1 and calls[1:7] == ['_block'] * 6


def replace(model: nn.Module, make: Callable[[nn.Module], nn.Module], path: str) -> None:
    model.set_submodule(path, make(model.get_submodule(path)))


class Doubled(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def doubled(conv: nn.Conv2d) -> nn.Conv2d:
    conv.__class__ = Doubled
    return conv


def strided_bias(model: nn.Module) -> None:
    linear = model.stages[1].blocks[0].mlp.fc1
    linear.bias = nn.Parameter(torch.randn(2 * linear.out_features)[::2])


CHANGED = {
    'subclass': lambda m: doubled(m.stages[0].blocks[0].conv1_1x1),
    'replaced forward': lambda m: setattr(m.stem.conv1, 'forward', lambda x: -nn.Conv2d.forward(m.stem.conv1, x)),
    'dropout replaced': lambda m: setattr(m.stages[1].blocks[0].mlp, 'drop1', nn.ReLU()),
    'pruned': lambda m: replace(m, lambda _: nn.Identity(), 'stages.0.blocks.1.conv2_kxk'),
    'other activation': lambda m: setattr(m.stages[0].blocks[0].norm1, 'act', nn.ReLU()),
    'approximate gelu': lambda m: setattr(m.stages[1].blocks[0].mlp, 'act', nn.GELU('tanh')),
    'reflected': lambda m: setattr(m.stages[0].blocks[1].conv2_kxk, 'padding_mode', 'reflect') or setattr(
        m.stages[0].blocks[1].conv2_kxk, '_reversed_padding_repeated_twice', [1, 1, 1, 1]),
    'same padding': lambda m: setattr(m.stages[0].blocks[1].conv2_kxk, 'padding', 'same'),
    'norm without weights': lambda m: replace(m, lambda n: nn.BatchNorm2d(len(n.bias), affine=False).eval(),
                                              'stages.0.blocks.1.norm1'),
    'strided bias': strided_bias,
    'spectral norm': lambda m: nn.utils.parametrizations.spectral_norm(m.stages[1].blocks[0].mlp.fc1).eval(),
    'max pooling in squeeze-excite': lambda m: setattr(m.stages[0].blocks[0].se_early, 'add_maxpool', True),
    'reparameterised': lambda m: [b.reparameterize() for b in (m.stem, *m.stages[0].blocks, *m.stages[1].blocks)],
}  # fmt: skip


@pytest.mark.parametrize('change', CHANGED.values(), ids=CHANGED)
def test_changed_modules(change: Callable) -> None:
    model = create()
    change(model)
    check(model, random_images(2, 3, 64))


def test_nan_is_not_hidden() -> None:
    x = random_images(2, 3, 64)
    x[0, 0, 5, 5] = float('nan')
    with torch.inference_mode():
        logits = create()(x)
    assert logits[0].isnan().all() and not logits[1].isnan().any()


@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_tensors_that_others_hold_stay_as_they_are(mode: Callable) -> None:
    """The images, intermediates of the stages, and what hooks have kept; hooks see every call."""
    model, x = create(), random_images(2, 3, 64)
    before = x.clone()
    with mode():
        expected = [t.clone() for t in model.forward_intermediates(x, intermediates_only=True)]
        kept = model.forward_intermediates(x, intermediates_only=True)
        model(x)
        seen: dict[str, torch.Tensor] = {}
        for name, module in model.named_modules():
            module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: (out, out.clone())}))
        hooked = model(x)
    assert torch.equal(x, before)
    for a, b in zip(kept, expected, strict=True):
        assert torch.equal(a, b)
    missing = {n for n, m in model.named_modules() if n not in seen}
    assert not {n for n in missing if not n.endswith('drop')}
    torch.testing.assert_close(hooked, as_defined(model, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('register', ['register_forward_hook', 'register_forward_pre_hook'])
def test_every_hook_is_called(register: str) -> None:
    """A hook on any one module."""
    model, x = create('timm_bn', depths=(1, 1)), random_images(2, 3, 64)
    seen: list[str] = []
    for name, module in model.named_modules():
        handle = getattr(module, register)(lambda *_, name=name: seen.append(name))
        as_defined(model, x)
        if seen:
            with torch.inference_mode():
                model(x)
            assert len(seen) == 2, name
        handle.remove()
        seen.clear()


def by_step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.enable_grad():
        model(random_images(2, 3, 64)).sum().backward()
    optimizer.step()


def by_pickle(model: nn.Module) -> None:
    file = io.BytesIO()
    torch.save(model, file)
    loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    model.load_state_dict({k: 0.5 * v for k, v in loaded.state_dict().items()})


def by_statistics(model: nn.Module) -> None:
    model.train()
    with torch.no_grad():
        model(random_images(4, 3, 64))
    model.eval()


UPDATES = {
    'data.copy_': lambda m: [p.data.copy_(0.7 * p.data) for p in m.parameters()],
    'data =': lambda m: [setattr(p, 'data', 0.7 * p.data) for p in m.parameters()],
    'step': by_step,
    'average': lambda m: [p.lerp_(torch.randn_like(p), 0.1) for p in map(torch.detach, m.parameters())],
    'load_state_dict': lambda m: m.load_state_dict(create(embed_dim=(16, 32)).state_dict()),
    'statistics': by_statistics,
    'set_input_size': lambda m: m.set_input_size((96, 64)),
    'float64': lambda m: m.double().float(),
    'pickle': by_pickle,
}


@pytest.mark.parametrize('update', UPDATES.values(), ids=UPDATES)
def test_every_update_is_seen(update: Callable) -> None:
    """No weight, folded weight or position of an earlier call is used again, by the model or by its copies."""
    model, x = create(), random_images(2, 3, 64)
    with torch.inference_mode():
        old = model(x)
    twin = copy.deepcopy(model)
    update(model)
    fresh = create()
    fresh.set_input_size(model.img_size)
    fresh.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert torch.equal(model(x), fresh(x))
        assert torch.equal(twin(x), old)


def test_threads() -> None:
    model, images = create(), [random_images(2, 3, size) for size in (64, 96, 64, 128)]
    expected = [as_defined(model, x) for x in images]
    found: list[torch.Tensor] = [torch.empty(0)] * len(images)

    def run(i: int) -> None:
        with torch.inference_mode():
            for _ in range(5):
                found[i] = model(images[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def without_onednn(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.backends.mkldnn.flags(enabled=False):
        return model(x)


LONG_WAYS = {
    'gradients': lambda m, x: m(x),
    'training': lambda m, x: m.train()(x),
    'bfloat16': lambda m, x: m.bfloat16()(x.bfloat16()),
    'autocast': lambda m, x: torch.autocast('cpu', torch.bfloat16)(m)(x),
    'without oneDNN': without_onednn,
    'FX': lambda m, x: torch.fx.symbolic_trace(m)(x),
    'traced': lambda m, x: torch.jit.trace(m, x, check_trace=False)(x),
    'scripted': lambda m, x: torch.jit.script(m)(x),
    'exported': lambda m, x: torch.export.export(m, (x,)).module()(x),
    'compiled': lambda m, x: torch.compile(m, backend='eager', fullgraph=True)(x),
    'vmap': lambda m, x: torch.vmap(lambda x: m(x[None])[0])(x),
}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('way', LONG_WAYS)
def test_all_other_calls_take_the_long_way(way: str, calls: list[str]) -> None:
    model, x = create(), random_images(2, 3, 64)
    expected = as_defined(model, x)
    with torch.set_grad_enabled(way == 'gradients'):
        logits = LONG_WAYS[way](model, x)
    assert calls == []
    if way != 'training':
        tolerance = 0.1 if way in ('bfloat16', 'autocast') else 1e-5
        torch.testing.assert_close(logits.float(), expected, rtol=tolerance, atol=tolerance * 3)
