"""Image files as a model takes them: every mode as the same picture, and odd files and configurations in one line."""

import os
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import timm
import torch
from paths import DATA
from PIL import Image
from timm.data import ImageNetInfo

from coatnet_zoo import CoAtNet, ExplainError
from coatnet_zoo.images import Guess, data_config, find_images, known_labels
from coatnet_zoo_runtime import ImageError, open_image, register_heic
from coatnet_zoo_runtime import prepare as prepare_image

DIGIT = DATA / 'digits' / '3_row0705.png'


def prepare(file: Path | Image.Image, channels: int = 3) -> torch.Tensor:
    """(channels, 64, 64), with values in [0, 1]."""
    image = file if isinstance(file, Image.Image) else open_image(file)
    config = dict(input_size=(channels, 64, 64), mean=(0.0,) * channels, std=(1.0,) * channels, crop_pct=1.0)
    config |= dict(interpolation='bilinear', crop_mode='center')
    return torch.from_numpy(prepare_image(image, config))


@pytest.mark.parametrize('mode', ['L', '1', 'P', 'RGB', 'RGBA', 'LA', 'CMYK', 'LAB', 'I;16', 'animated'])
@pytest.mark.parametrize('channels', [1, 3])
def test_every_mode_is_the_same_picture(mode: str, channels: int, tmp_path: Path) -> None:
    low, high = (0, 255) if mode == '1' else (64, 192)
    grey = Image.fromarray(np.where(np.indices((64, 64)).sum(0) > 60, high, low).astype(np.uint8))
    file = tmp_path / {'CMYK': 'image.tif', 'LAB': 'image.tif', 'animated': 'image.gif'}.get(mode, 'image.png')
    if mode == 'I;16':
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(file)
    elif mode == 'LAB':
        Image.merge('LAB', (grey, Image.new('L', grey.size, 128), Image.new('L', grey.size, 128))).save(file)
    elif mode == 'animated':
        grey.save(file, save_all=True, append_images=[grey.rotate(90)])
    else:
        grey.convert(mode).save(file)
    seen = prepare(file, channels)
    assert seen.shape == (channels, 64, 64)
    if mode == 'LAB':  # whose lightness is not linear in grey
        assert seen[:, -1, -1].min() - seen[:, 0, 0].max() > 0.4 and (seen[0] - seen[-1]).abs().max() < 0.02
    else:
        torch.testing.assert_close(seen, prepare(grey, channels), rtol=0, atol=0.01)
        torch.testing.assert_close(seen[:, 0, 0], torch.full((channels,), low / 255), rtol=0, atol=0.01)
        torch.testing.assert_close(seen[:, -1, -1], torch.full((channels,), high / 255), rtol=0, atol=0.01)


def test_transparency_is_white_and_photos_are_upright(tmp_path: Path) -> None:
    assert prepare(Image.new('RGBA', (64, 64), (0, 0, 0, 0))).min() == 1
    palette = Image.new('P', (64, 64), 0)
    palette.save(tmp_path / 'palette.png', transparency=0)
    assert prepare(tmp_path / 'palette.png', 1).min() == 1
    photo = Image.new('RGB', (64, 64), 'white')
    photo.paste('black', (0, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    photo.save(tmp_path / 'photo.png', exif=exif)
    for image in (tmp_path / 'photo.png', Image.open(tmp_path / 'photo.png'), open_image(tmp_path / 'photo.png')):
        seen = prepare(image)
        assert seen[:, :20].min() > 0.9 and seen[:, -20:].max() < 0.1
    with pytest.raises(ImageError, match=r'takes 4 channels, but images have 1 or 3; only other arrays fit it\.'):
        prepare(photo, 4)


@pytest.mark.parametrize('use', [open_image, lambda file: find_images([str(file)])])
def test_pillow_heif_is_registered_once(use: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'pillow_heif', heif := Mock())
    register_heic.cache_clear()
    assert use(DIGIT) and use(DIGIT)
    heif.register_heif_opener.assert_called_once_with()
    register_heic.cache_clear()


def bomb(file: Path) -> None:
    """A PNG file of 100 bytes that claims 4 gigapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    header = struct.pack('>IIBBBBB', 1 << 16, 1 << 16, 8, 0, 0, 0, 0)
    file.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'\0' * 9)))


UNREADABLE = 'is not an image that can be read'
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    'missing': (lambda f: None, 'There is no image'),
    'a pipe': (lambda f: os.mkfifo(f), UNREADABLE),
    'endless': (lambda f: f.symlink_to('/dev/zero'), UNREADABLE),
    'a folder': (lambda f: f.mkdir(), UNREADABLE),
    'cut': (lambda f: f.write_bytes(DIGIT.read_bytes()[:80]), UNREADABLE),
    'a bomb': (bomb, UNREADABLE),
    'thin': (lambda f: Image.new('L', (1, 60000)).save(f), 'too long and narrow for a model; crop it'),
    'NaN': (lambda f: Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(f, 'TIFF'), '32-bit pixels'),
}


@pytest.mark.parametrize('kind', BAD)
def test_images_that_are_refused(kind: str, tmp_path: Path) -> None:
    make, message = BAD[kind]
    make(tmp_path / 'b\nad.png')
    start = time.monotonic()
    with pytest.raises(ImageError, match=message) as caught:
        open_image(tmp_path / 'b\nad.png')
    assert time.monotonic() - start < 5
    if kind in ('thin', 'NaN'):
        with pytest.raises(ImageError, match=f'The image .*{message}'):
            prepare_image(Image.open(tmp_path / 'b\nad.png'), {'input_size': (3, 64, 64)})
    assert r'b\nad.png' in str(caught.value) and '\n' not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    'field, value',
    [('crop_pct', v) for v in (float('nan'), -1, 1e-6, 'x')]
    + [('mean', v) for v in ((float('nan'),), (0.5, 0.5), ('x',), ())]
    + [('std', v) for v in ((0,), (float('inf'),), (0.5, 0.5))]
    + [('interpolation', v) for v in ('cubic', 'random')],
)
def test_bad_configurations(field: str, value: Any, digits: CoAtNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(digits.pretrained_cfg, field, value)
    with pytest.raises(ExplainError, match=field) as caught:
        data_config(digits, (64, 64))
    assert '\n' not in str(caught.value)


def test_labels(digits: CoAtNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the model, in a list or by number; none, where they do not fit the classes or are no texts."""
    names = [str(i) for i in range(10)]
    by_number = dict(enumerate(names))
    cases = [(names, names), (by_number, names), ({str(i): name for i, name in by_number.items()}, names)]
    for labels, expected in [*cases, ([1] * 10, None), (['x'] * 7, None)]:
        monkeypatch.setitem(digits.pretrained_cfg, 'label_names', labels)
        assert known_labels(digits) == expected
    assert Guess(7, None, 0.5).name == 'class 7' and Guess(7, 'seven', 0.5).name == 'seven'


@pytest.mark.parametrize('classes, subset', [(1000, 'imagenet-1k'), (11821, 'imagenet-12k'), (21841, 'imagenet-22k')])
def test_labels_of_imagenet(classes: int, subset: str) -> None:
    model = timm.create_model('coatnet_atto', num_classes=classes)
    assert known_labels(model) == ImageNetInfo(subset).label_descriptions()
    model.pretrained_cfg['label_names'] = own = [f'thing {i}' for i in range(classes)]
    assert known_labels(model) == own
