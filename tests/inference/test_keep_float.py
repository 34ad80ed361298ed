"""Layers that stay in float32, and the report that says for which layers this helps; integers are simulated."""

from typing import Any

import pytest
import timm
import torch
from peers import randomize_, relative_error
from torch import nn

from coatnet_zoo import optimize_for_inference, quantization_report
from scripts.train_digits import digits

pytest.importorskip('torchao', reason='needs the extra quantize')

TINY = dict(embed_dim=(8, 32, 64), depths=(1, 2, 2), block_types='CCT', stem_width=8, img_size=32, num_classes=5)


@pytest.fixture(autouse=True)
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes long."""
    monkeypatch.setattr('coatnet_zoo.inference.optimize.Frozen', lambda part, name: part)


@pytest.fixture(scope='module')
def model() -> nn.Module:
    return timm.create_model('coatnet_atto.digits', pretrained=True).eval()


def difference(model: nn.Module, images: torch.Tensor, calibration: torch.Tensor, keep_float: list[str]) -> float:
    kwargs = dict(quantize='int8', calibration=calibration, keep_float=keep_float)
    with torch.inference_mode():
        return relative_error(optimize_for_inference(model, **kwargs)(images), model(images))


def layers(model: nn.Module, outside: str = ' ') -> list[str]:
    """The layers of the stem and of the stages that are not in a module."""
    found = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return [name for name in found if not f'{name}.'.startswith((f'{outside}.', 'head.'))]


def test_the_worst_modules_in_float_make_digits_closer(model: nn.Module) -> None:
    train, images = digits(train=True)[0], digits(train=False)[0][:64]
    report = quantization_report(model, train[:16])
    assert [row.difference for row in report] == sorted((row.difference for row in report), reverse=True)
    blocks = {f'stages.{i}.blocks.{j}' for i, stage in enumerate(model.stages) for j in range(len(stage.blocks))}
    assert {row.name for row in report} == {'stem', *blocks, *layers(model)}
    assert all(0 < row.difference < 0.06 for row in report)
    none = difference(model, images, train[:16], [])
    three = difference(model, images, train[:16], [row.name for row in report[:3]])
    assert 0 < three < 0.6 * none


@pytest.mark.parametrize('impl, size', [('timm_bn', (48, 32)), ('paper', (32, 32))])
def test_a_row_is_the_difference_with_all_other_layers_in_float(impl: str, size: tuple[int, int]) -> None:
    model = randomize_(timm.create_model('coatnet_0', impl=impl, **{**TINY, 'img_size': size}))
    images = torch.rand(4, 3, *size)
    rows = dict(quantization_report(model, images))
    for name in ('stages.1.blocks.0', 'stages.1.blocks.1.conv3_1x1'):
        alone = difference(model, images, images, layers(model, outside=name))
        assert alone > 0
        assert rows[name] == pytest.approx(alone, rel=0.02)


@pytest.mark.parametrize(
    'keep, sums',
    [
        (['stem', 'stages.0'], {'stages.1.blocks.0', 'stages.1.blocks.1', 'stages.2.blocks.0'}),
        (
            ['stem.conv2', 'stages.0.blocks.0.conv3_1x1', 'stages.1.blocks.1', 'stages.2.blocks.1.attn'],
            {'stages.1.blocks.0', 'stages.2.blocks.0'},
        ),
    ],
)
def test_exactly_the_named_modules_stay_in_float(keep: list[str], sums: set[str]) -> None:
    """No input of a layer that is kept is rounded, and no input of a sum with the output of a layer that is kept."""
    model = randomize_(timm.create_model('coatnet_0', **TINY))
    calibration = torch.rand(2, 3, 32, 32)
    quantized = optimize_for_inference(model, quantize='int8', calibration=calibration, keep_float=keep)
    found = set()
    for part, module in zip(
        ['stem', 'stages.0', 'stages.1', 'stages.2'], [quantized.stem, *quantized.stages], strict=True
    ):
        for node in module.module.graph.nodes:
            if 'dequantize_per' in str(node.target):
                (user,) = node.users
                found.add(f'{part}.{list(user.meta["nn_module_stack"].values())[-1][0]}')
    assert found == sums | {name for name in layers(model) if not f'{name}.'.startswith(tuple(f'{k}.' for k in keep))}


@pytest.mark.parametrize(
    'kwargs, error, message',
    [
        (dict(keep_float='stem'), TypeError, r"keep_float needs a list of names of modules.*not 'stem'"),
        (dict(keep_float=[1]), TypeError, r'not \[1\]'),
        (dict(keep_float=['stages.0.blocks.9']), ValueError, r"no module 'stages\.0\.blocks\.9'"),
        (dict(keep_float=['stem', 'stages.0.block']), ValueError, r"no module 'stages\.0\.block'"),
        (dict(keep_float=['stages.0.blocks.0.norm1']), ValueError, r"'stages\.0\.blocks\.0\.norm1' has no layer"),
        (dict(keep_float=['head']), ValueError, r"'head' has no layer that would be quantised"),
        (dict(keep_float=['stem'], quantize=None, calibration=None), ValueError, "only with quantize='int8'"),
    ],
)
def test_bad_names(model: nn.Module, kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        optimize_for_inference(model, **{**dict(quantize='int8', calibration=torch.zeros(2, 1, 64, 64)), **kwargs})


def test_the_report_refuses_what_cannot_be_quantised(model: nn.Module) -> None:
    for kwargs, error, message in (
        (dict(model=model, calibration=None), ValueError, 'needs calibration=images'),
        (dict(model=nn.Identity(), calibration=None), TypeError, 'needs a CoAtNet'),
    ):
        with pytest.raises(error, match=message):
            quantization_report(**kwargs)
