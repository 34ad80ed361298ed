"""Models whose modules a user has changed: optimised, they compute what the changed model computes, or are refused."""

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from peers import randomize_
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from coatnet_zoo import optimize_for_inference
from coatnet_zoo.inference import microbatch

STAGES = dict(stem_width=(8, 8), embed_dim=(8, 16), depths=(1, 2), block_types='CT', dim_head=8, img_size=32)


def create(impl: str = 'timm_bn', **kwargs) -> nn.Module:
    size = 'coatnet_1' if impl == 'timm_rmlp' else 'coatnet_0'
    return randomize_(timm.create_model(size, impl=impl, **{**STAGES, 'num_classes': 5, **kwargs}))


class Wrapper(nn.Module):
    """As peft's layers are."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + x.mean()


def subclass(module: nn.Module) -> None:
    """As LoRA layers do: a class of its own, with something added."""

    class Changed(type(module)):
        def forward(self, *args, **kwargs):
            y = super().forward(*args, **kwargs)
            return y if y is None else y + 1

    module.__class__ = Changed


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    'subclass': subclass,
    'hook': lambda m: m.register_forward_hook(lambda _, __, y: y if y is None else y + 1),
    'parametrization': lambda m: parametrize.register_parametrization(m, 'weight', nn.Tanh()),
}


@pytest.mark.parametrize('change', CHANGES)
@torch.no_grad()
def test_every_module_may_be_changed(change: str) -> None:
    """Blocks, layers and positions, in networks of one block of each kind."""
    learned, computed = create(depths=(1, 1)), create('timm_rmlp', depths=(1, 1))
    places = [(learned, name) for name, _ in learned.named_modules() if name]
    places += [(computed, name) for name, _ in computed.named_modules() if 'rel_pos' in name]
    x = torch.randn(3, 3, 32, 32)
    differs = 0
    for model, name in places:
        has_weight = isinstance(getattr(model.get_submodule(name), 'weight', None), nn.Parameter)
        if change == 'parametrization' and not has_weight:
            continue
        changed = copy.deepcopy(model)
        CHANGES[change](changed.get_submodule(name))
        expected = changed(x)
        error = (optimize_for_inference(changed)(x) - expected).abs().max()
        assert error < 1e-4, f'{name}: {error}'
        differs += not torch.allclose(model(x), expected, atol=1e-3)
    assert differs > 5


SPECIAL: dict[str, Callable[[nn.Module], object]] = {
    'wrapped qkv': lambda m: m.set_submodule('stages.1.blocks.0.attn.qkv', Wrapper(m.stages[1].blocks[0].attn.qkv)),
    'wrapped stage': lambda m: m.set_submodule('stages.1', Wrapper(m.stages[1])),
    'no statistics': lambda m: m.set_submodule('stages.1.blocks.1.norm2', nn.BatchNorm2d(16, 1e-5, None, True, False)),
    'no scale': lambda m: m.set_submodule('stages.0.blocks.0.norm1', nn.BatchNorm2d(32, affine=False)),
    'scale of zero after squeeze-excite': lambda m: m.stages[0].blocks[0].norm2.weight[0].zero_(),
    'spectral norm': lambda m: parametrizations.spectral_norm(m.stages[1].blocks[0].mlp.fc1),
    'pool that counts padding': lambda m: m.set_submodule('stages.0.blocks.0.down', nn.AvgPool2d(3, 2, padding=1)),
    'one layer twice': lambda m: m.set_submodule('stages.1.blocks.1.mlp.fc1', m.stages[1].blocks[0].mlp.fc1),
    'synchronised norms': convert_sync_batchnorm,
    'more in the norm': lambda m: m.stages[1].blocks[0].norm1.append(nn.Tanh()),
}


@pytest.mark.parametrize('change', SPECIAL.values(), ids=SPECIAL)
@torch.no_grad()
def test_special_changes(change: Callable[[nn.Module], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of one that looks at other images of the batch, which is then not cut."""
    monkeypatch.setattr(microbatch, '_LARGEST', 1)
    model = create(conv_stride='pool', pre_norm_act=False)
    change(model)
    model.eval()
    x = torch.randn(3, 3, 64, 64) * torch.tensor([0.5, 1, 2]).view(-1, 1, 1, 1)
    expected = model(x)
    torch.testing.assert_close(optimize_for_inference(model)(x), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda m: setattr(m.stages[1], 'forward', m.stages[1].forward), "module 'stages.1', whose forward was repl"),
        (lambda m: prune.l1_unstructured(m.stem.conv1, 'weight', 0.5), "module 'stem.conv1', whose weight is computed"),
        (lambda m: m.stages[1].bfloat16(), 'not torch.bfloat16 on cpu, torch.float32 on cpu; load the weights'),
        (lambda m: m.stages[1].to('meta'), 'one real device, not torch.float32 on cpu, torch.float32 on meta'),
        (lambda m: setattr(m, 'stages', Wrapper(m.stages)), "the module 'stages' is a Wrapper"),
    ],
)
def test_what_cannot_be_copied_is_refused(change: Callable[[nn.Module], None], message: str) -> None:
    model = create()
    change(model)
    with pytest.raises(ValueError, match=message) as e:
        optimize_for_inference(model)
    assert '\n' not in str(e.value)
