"""segmentation_models_pytorch: decoders on our features at sizes that are not the native one."""

from pathlib import Path

import pytest
import torch
from clients import NAMES, ONE_SIZE, arguments, assert_same, client, images, whose

smp = client('segmentation_models_pytorch')


def network(decoder: str, whose: str, size: tuple[int, int]) -> torch.nn.Module:
    name, kwargs = f'tu-{NAMES[whose]}', arguments(whose, size=size)
    return smp.create_model(decoder, encoder_name=name, encoder_weights=None, classes=2, **kwargs)


def trains(model: torch.nn.Module, size: tuple[int, int], stride: int) -> None:
    x = images(2, *size)
    assert model.encoder(x)[-1].shape[2:] == (size[0] // stride, size[1] // stride)
    masks = model(x)
    assert masks.shape == (2, 2, *size)
    masks.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.encoder.parameters())


@whose(ONE_SIZE)
@pytest.mark.parametrize('decoder', ['Unet', 'FPN', 'UPerNet'])
@pytest.mark.parametrize('size', [(128, 192), (256, 256)], ids=str)
def test_training(whose: str, decoder: str, size: tuple[int, int]) -> None:
    trains(network(decoder, whose, size), size, stride=32)


@whose(pytest.RaisesExc(TypeError, match="unexpected keyword argument 'output_stride'"))
@pytest.mark.parametrize('decoder, stride', [('DeepLabV3', 8), ('DeepLabV3Plus', 16), ('PAN', 16)])
@pytest.mark.parametrize('size', [(128, 192), (256, 256)], ids=str)
def test_training_at_a_finer_stride(whose: str, decoder: str, stride: int, size: tuple[int, int]) -> None:
    trains(network(decoder, whose, size), size, stride)


@whose(ONE_SIZE)
def test_saving(whose: str, tmp_path: Path) -> None:
    model = network('Unet', whose, (128, 192)).eval()
    model.save_pretrained(str(tmp_path))
    x = images(1, 128, 192)
    assert_same(smp.from_pretrained(str(tmp_path)).eval()(x), model(x))
