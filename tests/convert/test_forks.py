"""Forks of chinhsuanwu/coatnet-pytorch: converted exactly in every form in which they are saved, or refused by name."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from checkpoint_bytes import saved, write
from command_line import output_of, refusal
from fork import Fork
from originals import coatnet_pytorch
from peers import assert_close, random_images, randomize_
from timm.layers import gen_relative_position_index
from torch import nn

from coatnet_zoo import CheckpointError, convert_module

Tensors = dict[str, torch.Tensor]
X = random_images(2, 3, 64)


def converted(folder: Path, content: bytes, *options: str) -> tuple[nn.Module, str]:
    """The model of a file, and what the command says."""
    output = output_of('convert', write(folder, content), folder / 'out', *options)
    return timm.create_model(f'local-dir:{folder / "out"}', pretrained=True).eval(), output


# Networks that compute the same in other words.


def of_meshgrid_xy(grid: tuple[int, int]) -> torch.Tensor:
    y, x = (c.flatten() for c in torch.meshgrid(*map(torch.arange, grid), indexing='xy'))
    return (y[:, None] - y + grid[0] - 1) * (2 * grid[1] - 1) + x[:, None] - x + grid[1] - 1


def from_key_to_query(grid: tuple[int, int]) -> torch.Tensor:
    return gen_relative_position_index(grid).T


class Numbered(nn.Module):
    """The stages in a `Sequential`, and a classifier with a bias."""

    def __init__(self, name: str, classifier: str, **changes: Any) -> None:
        super().__init__()
        self.names = name, classifier
        self.add_module(name, nn.Sequential(*list(Fork(**changes).children())[:5]))
        self.add_module(classifier, nn.Linear(32, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stages, classifier = map(self.get_submodule, self.names)
        return classifier(stages(x).mean((2, 3)))


SAME: dict[str, Callable[[], nn.Module]] = {
    'unchanged': Fork,
    'wrapped': lambda: nn.DataParallel(Fork()),
    "meshgrid of indexing='xy'": lambda: Fork(index=of_meshgrid_xy),
    'offsets from the key to the query': lambda: Fork(index=from_key_to_query),
    'stages in features': lambda: Numbered('features', 'fc'),
    'stages in coatnet': lambda: Numbered('coatnet', 'classifier'),
    'a third stage of both blocks': lambda: Fork(third_stage='CCTT'),
    'a third stage that begins without a projection': lambda: Fork(third_stage='TT'),
    'the original': lambda: coatnet_pytorch().CoAtNet((64, 64), 3, [2, 2, 1, 2, 2], [8, 8, 12, 16, 24], 5),
}
WHOLE, FORM = ('unchanged', 'stages in features', 'the original'), 'a state dict'
FORMS: dict[str, Callable[[nn.Module], bytes]] = {
    FORM: lambda model: saved(model.state_dict()),
    'a whole model': saved,
    'a whole model before torch 1.6': lambda model: saved(model, _use_new_zipfile_serialization=False),
    'a whole model in a wrapper': lambda model: saved(dict(net=nn.DataParallel(model), epoch=3)),
    'a whole model and its average': lambda model: saved(dict(model=model, ema=randomize_(Fork(), seed=1))),
    'the average of YOLO': lambda model: saved(dict(epoch=3, model=None, ema=model)),
    'TorchScript': lambda model: bytes(torch.jit.trace(model, X).save_to_buffer()),
}


@pytest.mark.parametrize('form, case', [*((FORM, c) for c in SAME), *((f, c) for f in list(FORMS)[1:] for c in WHOLE)])
@torch.no_grad()
def test_the_same_network_in_other_words(form: str, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomize_(SAME[case]())
    if form == FORM:
        assert_close(convert_module(model)(X), model(X), rel=1e-5)  # which compares in float64
    content = FORMS[form](model)
    monkeypatch.setitem(sys.modules, type(model).__module__, None)  # nothing of it is imported
    assert_close(converted(tmp_path, content)[0](X), model(X), rel=1e-5)


def test_a_numbered_stage_that_differs_is_named() -> None:
    with pytest.raises(CheckpointError, match=r'features\.1\.0\.conv\.fn\.1 has eps=0.001, not 1e-05'):
        convert_module(randomize_(Numbered('features', 'fc', eps=1e-3)))


# What stands behind a network: its classifier, if that is one linear layer and nothing follows.


def layer(name: str, outputs: int, inputs: int) -> Tensors:
    return {f'{name}.weight': torch.randn(outputs, inputs), f'{name}.bias': torch.randn(outputs)}


NETWORK = randomize_(Fork())
WITH_FC = NETWORK.state_dict()
HEADLESS = {k: v for k, v in WITH_FC.items() if k != 'fc.weight'}
WRAPPED = {f'net.{k}': v for k, v in HEADLESS.items()}
MLP = {**layer('fc1', 16, 32), **layer('fc2', 2, 16)}
NORM = {**layer('bn', 16, 16), 'bn.weight': torch.ones(16), 'bn.num_batches_tracked': torch.tensor(3)}
REFUSED_HEADS: dict[str, Tensors] = {
    'an Identity and two layers beside it': {**WRAPPED, **MLP},
    'an Identity, a layer and a norm beside it': {**WRAPPED, **layer('embed', 16, 32), **NORM},
    'layers in place of fc': {**HEADLESS, **MLP, **layer('fc3', 2, 2)},
    'head.0': {**HEADLESS, **layer('head.0', 16, 32), **layer('head.2', 5, 16)},
    'another pooling': {**HEADLESS, 'pool.p': torch.ones(1), 'fc.weight': WITH_FC['fc.weight']},
    'another pooling beside it': {**WRAPPED, 'pool.p': torch.ones(1), 'fc.weight': WITH_FC['fc.weight']},
    'two poolings side by side': {**HEADLESS, **layer('fc.1', 5, 64)},
    'a convolution': {**WRAPPED, 'head.weight': torch.ones(5, 32, 1, 1)},
    'a spectral norm': {**HEADLESS, 'fc.weight_orig': torch.ones(5, 32), 'fc.weight_u': torch.ones(5)},
    'a norm after fc': {**WITH_FC, **NORM},
    'two layers with names in order': dict(sorted({**HEADLESS, **MLP}.items())),
}


@pytest.mark.parametrize('case', REFUSED_HEADS)
@torch.no_grad()
def test_other_heads_are_refused_or_dropped(case: str, tmp_path: Path) -> None:
    content = REFUSED_HEADS[case]
    message = refusal('convert', write(tmp_path, saved(content)), tmp_path / 'out')
    first = next(k for k in content if k.removeprefix('net.') not in WITH_FC)
    assert 'After the network' in message and first in message and message.endswith('(--no-head).\n'), message
    model, output = converted(tmp_path, saved(content), '--no-head')
    assert 'no classes' in output and f'left out, not part of the network: {first}' in output
    features = NETWORK.s4(NETWORK.s3(NETWORK.s2(NETWORK.s1(NETWORK.s0(X))))).mean((2, 3))
    assert_close(model(X), features, rel=1e-5)


@torch.no_grad()
def test_a_layer_beside_the_network_is_the_classifier_with_a_line(tmp_path: Path) -> None:
    tensors = {**WRAPPED, 'projector.weight': WITH_FC['fc.weight']}
    model, output = converted(tmp_path, saved(tensors))
    assert 'logits from fc, projector.weight is the classifier; check with' in output
    assert_close(model(X), NETWORK(X), rel=1e-5)


@pytest.mark.parametrize('prefix', ['', 'net.'])
def test_metrics_are_left_out_with_a_line(prefix: str, tmp_path: Path) -> None:
    metrics = {'val_acc.confmat': torch.ones(5, 5), 'class_weights': torch.ones(5), 'criterion.weight': torch.ones(5)}
    tensors = {**{prefix + k: v for k, v in WITH_FC.items()}, **metrics}
    model, output = converted(tmp_path, saved(tensors))
    assert model.num_classes == 5 and f'left out, not part of the network: {", ".join(metrics)}' in output


# What this package cannot compute.


def changed(**tensors: torch.Tensor) -> Tensors:
    return {**WITH_FC, **{k.replace('__', '.'): v for k, v in tensors.items()}}


def stages(kept: str) -> Tensors:
    return {k: v for k, v in WITH_FC.items() if k[:2] in kept}


def with_softmax() -> nn.Module:
    model = Fork()
    model.fc = nn.Sequential(model.fc, nn.Softmax(1))
    return model


PROJECTION, KERNEL = torch.ones(12, 12, 1, 1), torch.ones(24, 24, 3, 3)
REFUSED: dict[str, tuple[Any, str]] = {
    'three stages': (stages('s0 s1 s2 s3 fc'), 'with 3 stages (s1, s2, s3) instead of four'),
    'five stages': (changed(s5__0__proj__weight=PROJECTION), 'with 5 stages (s1, s2, s3, s4, s5) instead of four'),
    'volumes': ({k: v[..., None] if v.ndim == 4 else v for k, v in WITH_FC.items()}, '3-D convolutions, as s0.0.0.w'),
    'projections': (changed(s1__1__proj__weight=PROJECTION), 'in the shortcut of every block (s1.1.proj.weight)'),
    'a feed-forward': (changed(s3__0__ff__1__fn__dw__weight=KERNEL), 'another feed-forward network (s3.0.ff.1.fn.dw'),
    'a narrow one': (changed(**layer('s3.0.ff.1.fn.net.0', 48, 24)), 's3.0.ff.1.fn.net.0.weight of'),
    'an attention': (changed(s3__0__attn__1__fn__pos=KERNEL), 'another attention (s3.0.attn.1.fn.pos)'),
    'an MBConv': (changed(s1__0__conv__fn__9__weight=KERNEL), 'another MBConv (s1.0.conv.fn.9.weight)'),
    'a layer inside': ({'cbam.weight': KERNEL, **WITH_FC}, 'has unexpected tensors: cbam.weight'),
    'a C after a T': (Fork(third_stage='TC').state_dict(), 'has a convolutional block (C) after a Transformer'),
    'masks': (changed(s0__0__0__weight_mask=KERNEL, s0__0__0__weight_orig=KERNEL), "prune.remove(layer, 'weight')"),
    'Mish': (saved(Fork(act=nn.Mish)), 's0.0.2 is Mish, not GELU'),
    'a softmax after fc': (saved(with_softmax()), 'fc.1 is Softmax, which head=False (--no-head) leaves out'),
    'Mish in TorchScript': (Fork(act=nn.Mish), 's0.0.2 is Mish, not GELU'),
    'a frozen TorchScript': (Fork(), 'is a frozen TorchScript file, whose tensors have no names; save the state'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_computed_is_named(case: str, tmp_path: Path) -> None:
    content, words = REFUSED[case]
    if isinstance(content, nn.Module):
        traced = torch.jit.trace(content.eval(), X)
        content = torch.jit.freeze(traced) if 'frozen' in case else traced
        content = bytes(content.save_to_buffer())
    data = content if isinstance(content, bytes) else saved(content)
    message = refusal('convert', write(tmp_path, data), tmp_path / 'out')
    assert words in message and message.count('\n') == 1, message
    if '--no-head' in message:
        converted(tmp_path, data, '--no-head')
