"""`coatnet_zoo_runtime.prepare` gives the pixels of `timm.data.create_transform`, bit for bit, without torch."""

import io
import itertools
import random

import numpy as np
import pytest
from PIL import Image, ImageOps
from timm.data import create_transform

from coatnet_zoo_runtime import prepare

SIDES = (1, 7, 31, 64, 65, 100, 224, 301, 640)
METHODS = ('bicubic', 'bilinear', 'nearest', 'box', 'hamming', 'lanczos')
TARGETS = ((64, 64), (64, 96), (97, 33), (224, 224))


def images() -> list[Image.Image]:
    """60 images of many sizes and modes, some turned by EXIF; a hundredth of a pixel of one channel is visible."""
    rng, choose = np.random.default_rng(0), random.Random(0)
    found = []
    for number in range(60):
        width, height = choose.choice(SIDES[2:]), choose.choice(SIDES[1:])
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        image = image.convert(('RGB', 'L', 'P', 'CMYK', '1', 'YCbCr')[number % 6])
        if number % 5 == 0 and image.mode in ('RGB', 'L'):
            exif, file = Image.Exif(), io.BytesIO()
            exif[0x0112] = 1 + number % 8
            image.save(file, 'PNG', exif=exif)
            image = ImageOps.exif_transpose(Image.open(file))
        found.append(image)
    return found


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('crop_mode', ['center', 'squash', 'border'])
def test_the_pixels_of_timm(crop_mode: str, channels: int) -> None:
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if channels == 3 else ((0.449,), (0.226,))
    cases = itertools.cycle(itertools.product(METHODS, TARGETS, (0.875, 1.0, 0.61)))
    for image, (method, size, crop_pct) in zip(images(), cases, strict=False):
        config = dict(input_size=(channels, *size), mean=mean, std=std, interpolation=method)
        config |= dict(crop_pct=crop_pct, crop_mode=crop_mode)
        expected = create_transform(**config)(image.convert('L' if channels == 1 else 'RGB')).numpy()
        found = prepare(image, config)
        assert found.dtype == np.float32 and found.flags['C_CONTIGUOUS']
        np.testing.assert_array_equal(found, expected, err_msg=f'{image.mode} {image.size} {method} {size} {crop_pct}')
