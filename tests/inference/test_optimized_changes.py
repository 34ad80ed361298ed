"""Models whose modules a user has changed: optimised, they compute what the changed model computes, or are refused."""

import copy
import functools
from collections.abc import Callable

import pytest
import timm
import torch
from peers import randomize_
from timm.models import reparameterize_model
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from coatnet_zoo import optimize_for_inference

STAGES = dict(stem_width=(8, 8), embed_dim=(8, 16), depths=(1, 2), block_types='CT', dim_head=8, img_size=32)


def create(impl: str, **kwargs) -> nn.Module:
    size = 'coatnet_1' if impl == 'timm_rmlp' else 'coatnet_0'
    return randomize_(timm.create_model(size, impl=impl, **{**STAGES, 'num_classes': 5, **kwargs}))


def subclass(module: nn.Module) -> None:
    """As LoRA layers do: a class of its own, with something added."""

    class Changed(type(module)):
        def forward(self, *args, **kwargs):
            y = super().forward(*args, **kwargs)
            return y if y is None else y + 1

    module.__class__ = Changed


class Wrapper(nn.Module):
    """As peft's layers are."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + x.mean()


class OwnHead(nn.Linear):
    def forward(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return super().forward(x.amax((2, 3)))


def hook(module: nn.Module) -> None:
    module.register_forward_hook(lambda _, __, y: y if y is None else y + 1)


def pre_hook(module: nn.Module) -> None:
    module.register_forward_pre_hook(lambda _, args: (args[0] + 1, *args[1:]) if torch.is_tensor(args[0]) else None)


class Twice(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def parametrization(module: nn.Module) -> None:
    parametrize.register_parametrization(module, 'weight', Twice())


@pytest.mark.parametrize(
    'impl, change',
    [
        ('timm_bn', subclass),
        ('timm_bn', hook),
        ('timm_bn', pre_hook),
        ('timm_bn', parametrization),
        ('timm_rmlp', hook),
    ],
)
@torch.no_grad()
def test_every_module_may_be_changed(impl: str, change: Callable[[nn.Module], None]) -> None:
    model = create(impl, depths=(1, 1))
    x = torch.randn(3, 3, 32, 32)
    plain = model(x)
    differs = 0
    for name, module in model.named_modules():
        has_weight = isinstance(getattr(module, 'weight', None), nn.Parameter)
        if not name or (change is parametrization and not has_weight):
            continue
        changed = copy.deepcopy(model)
        change(changed.get_submodule(name))
        expected = changed(x)
        error = (optimize_for_inference(changed)(x) - expected).abs().max()
        assert error < 1e-4, f'{name} ({type(module).__name__}): {error}'
        differs += not torch.allclose(plain, expected, atol=1e-3)
    assert differs > 5


def whole(model: nn.Module, path: str, new: nn.Module) -> None:
    model.set_submodule(path, new)


SPECIAL = {
    'tanh gelu': lambda m: whole(m, 'stages.1.blocks.0.mlp.act', nn.GELU('tanh')),
    'other activation': lambda m: whole(m, 'stages.1.blocks.0.mlp.act', nn.Mish()),
    'wrapped qkv': lambda m: whole(m, 'stages.1.blocks.0.attn.qkv', Wrapper(m.stages[1].blocks[0].attn.qkv)),
    'wrapped norm': lambda m: whole(m, 'stages.0.blocks.0.norm1', Wrapper(m.stages[0].blocks[0].norm1)),
    'wrapped stage': lambda m: whole(m, 'stages.1', Wrapper(m.stages[1])),
    'mixes images': lambda m: whole(m, 'stages.1.blocks.1.norm2', nn.BatchNorm2d(16, track_running_stats=False)),
    'no scale': lambda m: whole(m, 'stages.0.blocks.0.norm1', nn.BatchNorm2d(32, affine=False)),
    'spectral norm': lambda m: parametrizations.spectral_norm(m.stages[1].blocks[0].mlp.fc1),
    'weight norm': lambda m: parametrizations.weight_norm(m.stages[0].blocks[0].conv1_1x1),
    'circular padding': lambda m: setattr(m.stages[0].blocks[0].conv2_kxk, 'padding_mode', 'circular'),
    'padding by name': lambda m: whole(m, 'stem.conv2', nn.Conv2d(8, 8, 3, padding='same')),
    'pool that counts padding': lambda m: whole(m, 'stages.0.blocks.0.down', nn.AvgPool2d(3, 2, padding=1)),
    'one layer twice': lambda m: whole(m, 'stages.1.blocks.1.mlp.fc1', m.stages[1].blocks[0].mlp.fc1),
    'one block twice': lambda m: whole(m, 'stages.1.blocks.1', copy_of_last(m)),
    'method of an instance': lambda m: setattr(m.stem.conv1, '_conv_forward', lambda x, w, b: nn.functional.conv2d(
        x, w, None, stride=2, padding=1)),
    'more in the norm': lambda m: m.stages[1].blocks[0].norm1.append(nn.Tanh()),
    'own head': lambda m: setattr(m, 'head', OwnHead(16, 7)),
    'drop after the norm': lambda m: setattr(m.stages[0].blocks[0].norm1, 'drop', nn.Tanh()),
}  # fmt: skip


def copy_of_last(model: nn.Module) -> nn.Module:
    model.stages[1].blocks.append(model.stages[1].blocks[1])
    return model.stages[1].blocks[1]


@pytest.mark.parametrize('change', SPECIAL.values(), ids=SPECIAL)
@torch.no_grad()
def test_special_changes(change: Callable[[nn.Module], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of one that looks at other images of the batch, which is then not cut."""
    monkeypatch.setattr('coatnet_zoo.network.parts._LARGEST', 1)
    model = create('timm_bn', conv_stride='pool', pre_norm_act=False)
    change(model)
    model.eval()
    x = torch.randn(3, 3, 64, 64)
    expected = model(x)
    torch.testing.assert_close(optimize_for_inference(model)(x), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


@torch.no_grad()
def test_timms_reparameterisation_keeps_changes() -> None:
    for path in ('stages.0.blocks.0.conv1_1x1', 'stages.1.blocks.0.norm1.norm', 'stages.1.blocks.0.mlp', 'stem.norm1'):
        model = create('timm_bn')
        subclass(model.get_submodule(path))
        x = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(reparameterize_model(model)(x), model(x), rtol=0, atol=1e-4)


@torch.no_grad()
def test_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='eager'))
    model = create('timm_bn', depths=(1, 1))
    subclass(model.stages[1].blocks[0].norm2)
    hook(model.stages[0])
    pre_hook(model.stem.conv2)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(optimize_for_inference(model, compile=True)(x), model(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize('path', ['stem', 'stem.norm1', 'stages', 'stages.1.blocks.0.attn.qkv'])
def test_integers_need_known_modules(path: str) -> None:
    model = create('timm_bn')
    hook(model.get_submodule(path))
    with pytest.raises(ValueError, match=f"does not know what the module '{path}' computes"):
        optimize_for_inference(model, quantize='int8', calibration=torch.zeros(2, 3, 32, 32))


def replaced_forward(model: nn.Module) -> None:
    block = model.stages[1].blocks[0]
    block.forward = lambda x: type(block).forward(block, x) + 1


@pytest.mark.parametrize(
    'change, message',
    [
        (replaced_forward, "module 'stages.1.blocks.0', whose forward was replaced"),
        (lambda m: prune.l1_unstructured(m.stem.conv1, 'weight', 0.5), "module 'stem.conv1', whose weight is computed"),
        (lambda m: m.stages[1].bfloat16(), r'one precision, not in torch.bfloat16, torch.float32; call model.to'),
        (lambda m: m.stages[1].to('meta'), 'one device that computes, not on cpu, meta'),
        (lambda m: m.to('meta'), 'one device that computes, not on meta'),
        (lambda m: setattr(m, 'stages', Wrapper(m.stages)), "the module 'stages' is a Wrapper"),
    ],
)
def test_what_cannot_be_copied_is_refused(change: Callable[[nn.Module], None], message: str) -> None:
    model = create('timm_bn')
    change(model)
    with pytest.raises(ValueError, match=message) as e:
        optimize_for_inference(model)
    assert '\n' not in str(e.value)
