"""`coatnet-zoo explain` with odd names, images, labels and configurations: a picture, or one sentence."""

import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from command_line import output_of, refusal
from paths import DATA
from PIL import Image

from coatnet_zoo import CoAtNet, ExplainError, draw_explanation, explain_image
from coatnet_zoo.images import open_image, write_picture

pytest.importorskip('matplotlib', reason='needs the extra explain')

DIGIT = DATA / 'digits' / '3_row0705.png'


@pytest.fixture(scope='module')
def digits() -> CoAtNet:
    return timm.create_model('coatnet_atto.digits', pretrained=True).eval()


def bomb(file: Path) -> None:
    """A PNG file of 100 bytes that claims 4 gigapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    header = struct.pack('>IIBBBBB', 1 << 16, 1 << 16, 8, 0, 0, 0, 0)
    file.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'\0' * 9)))


BAD_IMAGES: dict[str, Callable[[Path], object]] = {
    'a pipe': lambda f: os.mkfifo(f),
    'endless': lambda f: f.symlink_to('/dev/zero'),
    'a folder': lambda f: f.mkdir(),
    'empty': lambda f: f.write_bytes(b''),
    'cut': lambda f: f.write_bytes(DIGIT.read_bytes()[:80]),
    'text': lambda f: f.write_text('text'),
    'a bomb': bomb,
    'NaN': lambda f: Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(f, 'TIFF'),
    'a loop': lambda f: f.symlink_to(f),
}


@pytest.mark.parametrize('kind', BAD_IMAGES)
def test_images_that_are_refused(kind: str, tmp_path: Path) -> None:
    BAD_IMAGES[kind](tmp_path / 'image.png')
    start = time.monotonic()
    message = refusal('explain', tmp_path / 'image.png', '--model', 'coatnet_atto', '--out', tmp_path / 'o.png')
    assert 'image.png' in message and time.monotonic() - start < 5
    assert [p.name for p in tmp_path.iterdir()] == ['image.png']


@pytest.mark.parametrize(
    'name', ['$x^$.png', '$\\frac{$.png', 'a_b%s{}.png', 'two\nlines.png', 'x' * 250, 'a\udcff.png']
)
def test_odd_names_are_drawn(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(DIGIT.read_bytes())
    out = tmp_path / 'out$_^{.png'
    output_of('explain', tmp_path / name, '--model', 'coatnet_atto', '--out', out)
    assert out.stat().st_size > 10_000


@pytest.mark.parametrize('kind', ['LAB', 'animated', 'palette', '1'])
def test_modes_that_are_drawn(kind: str, tmp_path: Path, digits: CoAtNet) -> None:
    grey = Image.open(DIGIT).convert('L')
    file = tmp_path / {'LAB': 'i.tif', 'animated': 'i.gif'}.get(kind, 'i.png')
    if kind == 'LAB':
        Image.merge('LAB', (grey, Image.new('L', grey.size, 128), Image.new('L', grey.size, 128))).save(file)
    elif kind == 'animated':
        grey.save(file, save_all=True, append_images=[grey.rotate(90)])
    elif kind == 'palette':
        grey.convert('P').save(file, transparency=0)
    else:
        grey.convert('1').save(file)
    assert np.isfinite(explain_image(open_image(file), digits).image).all()


NUMBERED = dict.fromkeys(map(str, range(10)), 'x' * 9999)


@pytest.mark.parametrize('labels', [5 * ['$x_$'] + 5 * ['a\nb'], 10 * ['\ud800'], NUMBERED, [1] * 10, 7 * ['x']])
def test_odd_labels_are_drawn(labels: Any, digits: CoAtNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(digits.pretrained_cfg, 'label_names', labels)
    write_picture(draw_explanation(explain_image(open_image(DIGIT), digits), '$'), tmp_path / 'o.png')
    assert (tmp_path / 'o.png').stat().st_size > 10_000


@pytest.mark.parametrize(
    'field, value',
    [('crop_pct', v) for v in (float('nan'), -1, 1e-6, 'x')]
    + [('mean', v) for v in ((float('nan'),), (0.5, 0.5), ('x',), ())]
    + [('std', v) for v in ((0,), (float('inf'),), (0.5, 0.5))]
    + [('interpolation', v) for v in ('cubic', 'random')],
)
def test_configurations_that_are_refused(
    field: str, value: Any, digits: CoAtNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(digits.pretrained_cfg, field, value)
    with pytest.raises(ExplainError, match=field) as caught:
        explain_image(open_image(DIGIT), digits)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'out', ['x' * 300 + '.png', 'link.png', 'broken.png', 'pipe.png', 'file/o.png', 'folder.png', '.png/']
)
def test_places_that_are_refused(out: str, tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('x')
    (tmp_path / 'folder.png').mkdir()
    os.mkfifo(tmp_path / 'pipe.png')
    (tmp_path / 'link.png').symlink_to('file')
    (tmp_path / 'broken.png').symlink_to('nowhere')
    before = sorted(tmp_path.iterdir())
    refusal('explain', DIGIT, '--model', 'coatnet_atto', '--out', tmp_path / out)
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / 'file').read_text() == 'x'


@pytest.mark.parametrize(
    'name', ['', 'x' * 5000, 'a\nb', 'local-dir:', 'local-dir:a\0b', 'coatnet_0.\udcff', '$', '{}', 'hf-hub:..']
)
def test_model_names_that_are_refused(name: str, tmp_path: Path) -> None:
    refusal('explain', DIGIT, '--model', name, '--out', tmp_path / 'o.png')
    assert list(tmp_path.iterdir()) == []
