"""One network: the same operators with and without gradients, in graphs and in eager mode, patched or hooked.

There is one exception, which `attention.fused_attention` states: attention on large maps, on CPUs, without gradients.
"""

from collections.abc import Callable

import pytest
import timm
import timm.layers
import torch
import torch.nn.functional as F
from peers import assert_close, random_images, randomize_
from timm.layers import Mlp, SqueezeExcite
from torch import nn
from torch.overrides import TorchFunctionMode

from coatnet_zoo import optimize_for_inference
from coatnet_zoo.network import Attention, MBConv, TransformerBlock, attention

STAGES = dict(stem_width=(8, 16), embed_dim=(16, 32, 32, 64), depths=(1, 2, 2, 1), dim_head=8, num_classes=5)
IMPLS = ['timm', 'timm_bn', 'timm_rmlp', 'timm_rmlp2', 'paper', 'chinhsuanwu', 'keras_cv']
# Attention has 27 x 25 positions at `LARGE`.
TWO_STAGES = dict(embed_dim=(16, 32), depths=(1, 2), block_types='CT')
LARGE = (216, 200)
MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]


def create(impl: str = 'timm', **kwargs) -> nn.Module:
    size = 'coatnet_0' if impl == 'timm_bn' else 'coatnet_1'
    return randomize_(timm.create_model(size, impl=impl, **{'img_size': 64, **STAGES, **kwargs}))


@pytest.fixture
def by_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The positions of every map whose attention is computed row by row."""
    seen: list[int] = []
    function = attention.attend_by_rows

    def attend(q: torch.Tensor, *args) -> torch.Tensor:
        seen.append(q.shape[2])
        return function(q, *args)

    monkeypatch.setattr(attention, 'attend_by_rows', attend)
    return seen


class Functions(TorchFunctionMode):
    """The names of the functions of torch that are called, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, '__name__', '') != '__get__':  # of `device` and the like
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('impl', IMPLS)
def test_functions_and_logits_are_the_same_without_gradients(impl: str, by_rows: list[int]) -> None:
    """Weights are frozen, because torch computes attention by another kernel if its bias needs a gradient."""
    model = create(impl).requires_grad_(False)
    for size in (64, (50, 97)):
        x, seen, logits = random_images(2, 3, size), [], []
        model(x)  # where the offsets of a new size lie is remembered
        for mode in MODES:
            with mode(), Functions() as functions:
                logits.append(model(x))
            seen.append(functions.names)
        assert seen[0] == seen[1] == seen[2] and len(seen[0]) > 100
        assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
    assert by_rows == []


@pytest.mark.parametrize('size', [64, LARGE], ids=str)
def test_hooks_see_the_same(size) -> None:
    """Hooks on all modules at once, and on attention alone, which may change what it returns."""
    model, x = create('timm_rmlp', **TWO_STAGES), random_images(1, 3, size)
    calls: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    seen = []
    for mode in MODES:
        calls.clear()
        with mode():
            model(x)
        seen.append(list(calls))
    assert seen[0] == seen[1] == seen[2]
    silent = {name for name, _ in model.named_modules()} - {*calls}
    assert all(name.endswith('drop') for name in silent), silent  # inside norms, and of fused attention
    before = model(x)
    model.stages[1].blocks[1].attn.core.attn.register_forward_hook(lambda *args: -args[2])
    with torch.no_grad():
        changed = model(x)
    torch.testing.assert_close(changed, model(x).detach(), rtol=0, atol=1e-5)
    assert not torch.allclose(changed, before, atol=1e-3)


PATCHES = [(kind, 'forward') for kind in (MBConv, TransformerBlock, Attention, Mlp, SqueezeExcite, nn.Conv2d)]


@pytest.mark.parametrize('owner, name', [*PATCHES, (F, 'gelu')], ids=lambda x: getattr(x, '__name__', x))
def test_patches_of_classes_and_functions_are_called(owner, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As often without gradients as with them, and in optimised models."""
    model, x, calls, original = create(), random_images(1, 3, 64), [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: (calls.append(0), original(*args, **kwargs))[1])
    seen = []
    for call in (model, torch.no_grad()(model), torch.inference_mode()(model), optimize_for_inference(model)):
        calls.clear()
        call(x)
        seen.append(len(calls))
    assert seen[0] > 1 and seen == seen[:1] * 4


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


class Negated(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    'parametrisation': lambda m: nn.utils.parametrize.register_parametrization(
        m.stages[0].blocks[0].conv2_kxk, 'weight', Doubled()),
    'parametrised table': lambda m: nn.utils.parametrize.register_parametrization(
        m.stages[2].blocks[0].attn.rel_pos, 'relative_position_bias_table', Doubled()),
    'subclass': lambda m: setattr(m.stem.conv1, '__class__', Negated),
    'replaced forward': lambda m: setattr(m.stem.conv2, 'forward', lambda x: -nn.Conv2d.forward(m.stem.conv2, x)),
    'replaced module': lambda m: setattr(m.stages[1].blocks[1], 'norm1', nn.ReLU()),
}  # fmt: skip


@pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)
def test_changed_modules(change: Callable) -> None:
    model, x = create('paper').requires_grad_(False), random_images(2, 3, 64)
    before = model(x)
    change(model)
    after = model(x)
    assert not torch.allclose(after, before, atol=1e-3)
    with torch.no_grad():
        assert torch.equal(model(x), after)


@pytest.mark.parametrize('impl', IMPLS)
@torch.no_grad()
def test_graphs_equal_eager_mode_bit_for_bit(impl: str) -> None:
    """Except TorchScript, which fuses operators."""
    model = create(impl, **TWO_STAGES)
    symbolic, scripted = torch.fx.symbolic_trace(model), torch.jit.script(model)
    for size in (64, (50, 97), LARGE):
        x = random_images(2, 3, size)
        expected = model(x)
        assert torch.equal(symbolic(x), expected)
        assert_close(scripted(x), expected, rel=1e-5)
        if size == (50, 97):
            assert torch.equal(torch.jit.trace(model, x, check_trace=False)(x), expected)


@pytest.mark.filterwarnings('ignore:There is a performance drop', 'ignore:.*Converting a tensor')
def test_large_maps_row_by_row(by_rows: list[int]) -> None:
    """Only without gradients, without windows, and outside of graphs; with the same logits."""
    model, x = create('timm_rmlp', **TWO_STAGES), random_images(3, 3, LARGE)
    expected = model(x)
    for images in (x, x[:1], x[:0]):
        with torch.inference_mode():
            torch.testing.assert_close(model(images), expected[: len(images)].detach(), rtol=0, atol=1e-5)
    assert by_rows == [27 * 25] * 4
    with torch.no_grad():
        torch.vmap(lambda x: model(x[None])[0])(x)
        assert len(by_rows) == 6
        for graph in (
            torch.jit.trace(model, x, check_trace=False),
            torch.jit.script(model),
            torch.export.export(model, (x,)).module(),
            torch.compile(model, backend='eager'),
        ):
            assert_close(graph(x), expected.detach(), rel=1e-5)
        for options in (dict(attn_window=25), dict(rel_attn='none'), dict(rel_attn='post')):
            create('paper', img_size=LARGE, **TWO_STAGES, **options)(x)
    assert len(by_rows) == 6


@pytest.mark.filterwarnings('ignore:There is a performance drop')
def test_functional_calls() -> None:
    """`functional_call`, `vmap` over models and over images, and gradients."""
    models, x = [create('paper'), create('paper')], random_images(2, 3, (64, 40))
    randomize_(models[1], seed=1)
    base, expected = models[0], torch.stack([m(x) for m in models]).detach()
    stacked, buffers = torch.func.stack_module_state(models)
    stacked = {name: p.detach() for name, p in stacked.items()}

    def call(params: dict, buffers: dict, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(base, (params, buffers), (x,))

    torch.testing.assert_close(torch.vmap(call, (0, 0, None))(stacked, buffers, x), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.vmap(lambda x: base(x[None])[0])(x), expected[0], rtol=0, atol=1e-5)
    params = {name: p.detach() for name, p in base.named_parameters()}
    grads = torch.func.grad(lambda p: torch.func.functional_call(base, p, (x,)).square().mean())(params)
    base(x).square().mean().backward()
    for name, p in base.named_parameters():
        torch.testing.assert_close(grads[name], p.grad, rtol=1e-4, atol=1e-5, msg=name)
