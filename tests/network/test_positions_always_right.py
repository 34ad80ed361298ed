"""Position tables follow their parameter, whatever changes it and however it is read: no value is remembered."""

import copy
import functools
from collections.abc import Callable

import pytest
import timm
import torch
import torch.distributed as dist
from peers import randomize_
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from coatnet_zoo.network.rel_pos import RelPosBias

STAGES = dict(stem_width=(8, 8), embed_dim=(8, 16), depths=(1, 2), block_types='CT', dim_head=8, num_classes=5)
NAME = 'stages.1.blocks.0.attn.rel_pos.relative_position_bias_table'
SIZES = [32, (64, 40)]


def create(img_size: int | tuple[int, int] = 32) -> nn.Module:
    return randomize_(timm.create_model('coatnet_0', impl='paper', img_size=img_size, **STAGES))


def table(model: nn.Module) -> nn.Parameter:
    return model.get_parameter(NAME)


def images(size: int | tuple[int, int] = (64, 40)) -> torch.Tensor:
    return torch.randn(2, 3, *((size, size) if isinstance(size, int) else size))


def by_broadcast(model: nn.Module, new: torch.Tensor) -> None:
    table(model).data.copy_(new)
    dist.broadcast(table(model).data, src=0)


def by_optimizer(model: nn.Module, new: torch.Tensor) -> None:
    table(model).grad = table(model).detach() - new
    torch.optim.SGD([table(model)], lr=1.0).step()
    table(model).grad = None


def inside_inference_mode(model: nn.Module, new: torch.Tensor) -> None:
    with torch.inference_mode():
        table(model).copy_(new)


CHANGES: dict[str, Callable[[nn.Module, torch.Tensor], object]] = {
    'data.copy_': lambda m, new: table(m).data.copy_(new),
    'data =': lambda m, new: setattr(table(m), 'data', new.clone()),
    'broadcast': by_broadcast,
    'optimiser': by_optimizer,
    'load_state_dict': lambda m, new: m.load_state_dict({**m.state_dict(), NAME: new}),
    'assign': lambda m, new: m.load_state_dict({**m.state_dict(), NAME: new}, assign=True),
    'inference mode': inside_inference_mode,
    'numpy': lambda m, new: table(m).detach().numpy().__setitem__(slice(None), new.numpy()),
    'parameter': lambda m, new: m.set_submodule(
        'stages.1.blocks.0.attn.rel_pos', with_table(m.stages[1].blocks[0].attn.rel_pos, new)),
}  # fmt: skip


def with_table(rel_pos: RelPosBias, new: torch.Tensor) -> RelPosBias:
    rel_pos.relative_position_bias_table = nn.Parameter(new)
    return rel_pos


@pytest.fixture
def process_group(tmp_path) -> None:
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/rendezvous', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures('process_group')
@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)
def test_every_change_is_seen(change: Callable, mode: Callable) -> None:
    """By a model that has computed with the old values before, at its own size and at another one."""
    model = create()
    new = torch.randn_like(table(model))
    fresh = create()
    with torch.no_grad():
        table(fresh).copy_(new)
    for size in SIZES:
        x = images(size)
        with mode():
            old = model(x)
        changed = copy.deepcopy(model)
        with mode():
            assert torch.equal(changed(x), old)
        change(changed, new)
        with mode():
            torch.testing.assert_close(changed(x), fresh(x), rtol=0, atol=1e-5)
            assert not torch.allclose(changed(x), old, atol=1e-3)


@pytest.mark.filterwarnings('ignore:There is a performance drop')
@pytest.mark.parametrize('size', SIZES)
def test_functional_calls(size: int | tuple[int, int]) -> None:
    """`functional_call`, `vmap` over models and over images, gradients and tangents, after ordinary calls."""
    models = [create(), create()]
    with torch.no_grad():
        table(models[1]).mul_(-2)
    base, x = models[0], images(size)
    expected = torch.stack([m(x) for m in models]).detach()
    stacked, _ = torch.func.stack_module_state(models)
    params = {k: p.detach() for k, p in stacked.items()}
    buffers = dict(base.named_buffers())

    def call(params: dict, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(base, (params, buffers), (x,))

    for i in range(2):
        torch.testing.assert_close(call({k: p[i] for k, p in params.items()}, x), expected[i], rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.vmap(call, (0, None))(params, x), expected, rtol=0, atol=1e-5)
    by_image = torch.vmap(lambda x: base(x[None])[0])(x)
    torch.testing.assert_close(by_image, expected[0], rtol=0, atol=1e-5)

    def loss(values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(base, {NAME: values}, (x,)).square().sum()

    values = table(base).detach()
    grad = torch.func.grad(loss)(values)
    base(x).square().sum().backward()
    torch.testing.assert_close(grad, table(base).grad, rtol=1e-4, atol=1e-5)
    assert torch.equal(base(x).detach(), expected[0])


def test_modes_mixed() -> None:
    model = create()
    x = images()
    with torch.inference_mode():
        expected = model(x)
    with torch.no_grad():
        assert torch.equal(model(x), expected)
    model(x).sum().backward()
    assert table(model).grad.any()
    with torch.inference_mode():
        made_inside = create()
        made_inside.set_input_size((64, 40))
        assert made_inside(x).shape == (2, 5)


ADAM = functools.partial(torch.optim.AdamW, lr=0.1)
OPTIMIZERS = {
    'SGD': functools.partial(torch.optim.SGD, lr=0.1),
    'momentum': functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    'AdamW': ADAM,
    'AdamW fused': functools.partial(ADAM, fused=True),
    'AdamW foreach': functools.partial(ADAM, foreach=True),
}


@pytest.mark.parametrize('img_size', [64, (64, 32)], ids=str)
@pytest.mark.parametrize('make', OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimisers_train_tables_of_a_new_size(
    make: Callable, img_size: int | tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    """Made before the size changes, and having trained or not; an old loss may be alive."""
    for trained in (False, True):
        caplog.clear()
        model = create()
        before = table(model)
        optimizer = make(model.parameters())
        if trained:
            old_loss = model(images()).square().mean()
            old_loss.backward()
            optimizer.step()
        other = {p: {k: v.clone() for k, v in s.items()} for p, s in optimizer.state.items() if p.shape != before.shape}
        model.set_input_size(img_size)
        assert table(model) is before and before.grad is None and before.requires_grad
        for p, state in other.items():
            assert all(torch.equal(v, state[k]) for k, v in optimizer.state[p].items())
        for _ in range(2):
            optimizer.zero_grad()
            values = before.detach().clone()
            model(images()).square().mean().backward()
            assert before.grad.shape == before.shape
            optimizer.step()
            assert not torch.equal(before, values)
        said = [m for m in caplog.messages if 'starts again with 2 position tables' in m]
        assert len(said) == (trained and bool(optimizer.state))
    with torch.no_grad():
        x = images()
        expected = model(x)
        model.set_input_size(img_size)
        assert torch.equal(model(x), expected)


def test_frozen_tables_stay_frozen() -> None:
    model = create().requires_grad_(False)
    model.set_input_size(64)
    assert not table(model).requires_grad


@pytest.mark.usefixtures('process_group')
def test_distributed_training_has_to_be_set_up_anew() -> None:
    model = create()
    parallel = nn.Sequential(DistributedDataParallel(model))
    loss = parallel(images()).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match='cannot change inside DistributedDataParallel; call set_input_size before'):
        model.set_input_size(64)
    assert model.img_size == (32, 32)
    del parallel
    model.set_input_size(64)
    DistributedDataParallel(model)(images()).sum().backward()
    assert table(model).grad.shape == table(model).shape


def test_sharded_tables_are_refused() -> None:
    model = create()
    rel_pos = model.stages[1].blocks[0].attn.rel_pos
    values = rel_pos.relative_position_bias_table.detach()
    del rel_pos.relative_position_bias_table
    rel_pos.relative_position_bias_table = values  # as FSDP has it
    with pytest.raises(RuntimeError, match='position table that is a Tensor cannot change its size'):
        model.set_input_size(64)
