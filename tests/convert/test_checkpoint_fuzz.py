"""Fuzzing of checkpoint files by mutation of sound ones: refused by our own error, or read as if nothing was changed.

2,000 mutations of every format; `COATNET_SOAK=100000` makes it 100,000 (`make soak`). A seed gives the same mutations
every time.
"""

import io
import os
import random
import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from paths import DATA

from coatnet_zoo import CheckpointError
from coatnet_zoo.convert import read_checkpoint, translate

h5py = pytest.importorskip('h5py')

COUNT = int(os.environ.get('COATNET_SOAK', '2000'))
SHM = Path('/dev/shm')
_NUMBERS = [b'0', b'1', b'-1', b'7', b'99999999', b'4294967296', b'18446744073709551616', b'1e999', b'9' * 300]


def _tensors() -> dict[str, torch.Tensor]:
    """The small tensors of a real checkpoint, so that much of a file is its structure."""
    state_dict = torch.load(DATA / 'chinhsuanwu_digits_64.pth', weights_only=True)['model_state_dict']
    small = {k.removeprefix('module.'): v for k, v in state_dict.items() if v.numel() < 100}
    return {k: small[k].clone() for k in sorted(small)[:16]}


def _torch_file(zipped: bool) -> Callable[[], bytes]:
    def build() -> bytes:
        file = io.BytesIO()
        content = {'model_state_dict': _tensors(), 'epoch': 7, 'lr': 0.1}
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        return file.getvalue()

    return build


def _h5_file() -> bytes:
    """Some layers of a real file of Keras."""
    file = io.BytesIO()
    with h5py.File(DATA / 'keras_cv_small.h5') as source, h5py.File(file, 'w') as target:
        target.attrs['keras_version'] = source.attrs['keras_version']
        weights = target.create_group('model_weights')
        for name in ('stem_1_conv', 'stem_1_bn', 'stack_1_block_1_se_1_conv', 'predictions'):
            source.copy(f'model_weights/{name}', weights)
    return file.getvalue()


# Whether checksums let every change of a value be seen; what builds a sound file.
FORMATS: dict[str, tuple[bool, Callable[[], bytes]]] = {
    'zip.pth': (True, _torch_file(True)),
    'legacy.pth': (False, _torch_file(False)),
    'a.safetensors': (False, lambda: safetensors.torch.save(_tensors())),
    'a.h5': (False, _h5_file),
}


def _flip(image: bytearray, at: int, length: int, rng: random.Random) -> None:
    image[at] ^= 1 << rng.randrange(8)


def _byte(image: bytearray, at: int, length: int, rng: random.Random) -> None:
    image[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])


def _zero(image: bytearray, at: int, length: int, rng: random.Random) -> None:
    image[at : at + length] = bytes(len(image[at : at + length]))


def _truncate(image: bytearray, at: int, length: int, rng: random.Random) -> None:
    del image[at:]


def _cut(image: bytearray, at: int, length: int, rng: random.Random) -> None:
    del image[at : at + length]


def _insert(image: bytearray, at: int, length: int, rng: random.Random) -> None:
    image[at:at] = rng.randbytes(length)


def _repeat(image: bytearray, at: int, length: int, rng: random.Random) -> None:
    image[at:at] = image[at : at + length]


def _swap(image: bytearray, at: int, length: int, rng: random.Random) -> None:
    other = rng.randrange(len(image))
    first, second = bytes(image[at : at + length]), bytes(image[other : other + length])
    if len(first) == len(second) and abs(at - other) >= length:
        image[at : at + length], image[other : other + length] = second, first


def _number(image: bytearray, at: int, length: int, rng: random.Random) -> None:
    found = re.compile(rb'[0-9]+').search(image, at)
    if found:
        image[found.start() : found.end()] = rng.choice(_NUMBERS)


def _integer(image: bytearray, at: int, length: int, rng: random.Random) -> None:
    """A number of four or eight bytes, as headers have them."""
    width = rng.choice([2, 4, 8])
    value = rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(image)]) % 2 ** (8 * width)
    image[at : at + width] = value.to_bytes(width, 'little')


MUTATIONS = [_flip, _flip, _byte, _zero, _truncate, _cut, _insert, _repeat, _swap, _number, _integer]


def mutated(sound: bytes, rng: random.Random) -> bytes:
    image = bytearray(sound)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if image:
            # Both ends of a file are its structure.
            span = rng.choice([len(image), min(400, len(image))])
            at = rng.randrange(span)
            at = len(image) - 1 - at if rng.random() < 0.3 else at
            rng.choice(MUTATIONS)(image, at, rng.choice([1, 2, 8, 64, 500]), rng)
    return bytes(image)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory, where there is such a place: thousands of files."""
    if not os.access(SHM, os.W_OK):
        yield tmp_path
        return
    folder = SHM / f'coatnet-zoo-fuzz-{os.getpid()}'
    folder.mkdir()
    yield folder
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == v.dtype and torch.equal(a[k], v) for k, v in b.items())


@pytest.mark.parametrize('name', FORMATS)
def test_fuzz(name: str, folder: Path) -> None:
    has_checksums, build = FORMATS[name]
    sound, file, rng = build(), folder / name, random.Random(0)
    file.write_bytes(sound)
    expected = read_checkpoint(file).tensors
    expected = {k: v.clone() for k, v in expected.items()}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for case in range(COUNT):
        image = mutated(sound, rng)
        # A new file every time, for tensors may still be mapped from the old one.
        file.unlink()
        file.write_bytes(image)
        start = time.monotonic()
        try:
            checkpoint = read_checkpoint(file)
            assert not has_checksums or same(checkpoint.tensors, expected), f'case {case} was read as other tensors'
            translate(checkpoint)
        except CheckpointError as e:
            refused += 1
            assert '\n' not in str(e) and str(e).isprintable() and len(str(e)) < 1500, f'case {case}: {e}'
        except Exception as e:
            raise AssertionError(f'case {case} raised {type(e).__name__}: {e}') from e
        assert time.monotonic() - start < 5, f'case {case} took long'
    # In kB; a file has less than 200.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300_000
    assert refused > COUNT / 4
