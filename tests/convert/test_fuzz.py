"""Fuzzing: a mutated file is refused by our own error, or read as if nothing was changed.

A seed gives the same cases every time: 150 of each format, 2,000 in `make slow`, and 100,000 in `make soak`.
"""

import io
import os
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from checkpoint_bytes import STATE_DICT, refusal, saved
from paths import DATA

from coatnet_zoo import CheckpointError
from coatnet_zoo.convert import read_checkpoint, translate

h5py = pytest.importorskip('h5py')
COUNT = int(os.environ.get('COATNET_SOAK', '2000' if 'COATNET_SLOW' in os.environ else '150'))
# Small tensors, so that much of a file is its structure.
SMALL = dict(sorted((k, v.clone()) for k, v in STATE_DICT.items() if v.numel() < 100)[:16])
CONTENT = {'model_state_dict': SMALL, 'epoch': 7, 'path': Path('runs')}


def _h5_file() -> bytes:
    """Some layers of a real file of Keras."""
    file = io.BytesIO()
    with h5py.File(DATA / 'keras_cv_small.h5') as source, h5py.File(file, 'w') as target:
        target.attrs['keras_version'] = source.attrs['keras_version']
        weights = target.create_group('model_weights')
        for name in ('stem_1_conv', 'stem_1_bn', 'stack_1_block_1_se_1_conv', 'predictions'):
            source.copy(f'model_weights/{name}', weights)
    return file.getvalue()


# Only archives have checksums, so that a changed value in them is always seen.
FORMATS: dict[str, Callable[[], bytes]] = {
    'zip.pth': lambda: saved(CONTENT),
    'plain.pth': lambda: saved(SMALL),
    'legacy.pth': lambda: saved(CONTENT, _use_new_zipfile_serialization=False),
    'a.safetensors': lambda: safetensors.torch.save(SMALL),
    'a.h5': _h5_file,
}


def mutate(image: bytearray, rng: random.Random) -> None:
    """One change near an end of the file, where its structure is, or anywhere."""
    at = rng.randrange(rng.choice([len(image), min(400, len(image))]))
    at = len(image) - 1 - at if rng.random() < 0.3 else at
    end = at + rng.choice([1, 2, 8, 64, 500])
    other = rng.randrange(len(image))
    width = rng.choice([2, 4, 8])
    number = rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(image)]) % 2 ** (8 * width)
    match rng.randrange(8):
        case 0 | 1:
            image[at] ^= 1 << rng.randrange(8)
        case 2:
            image[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        case 3:
            image[at:end] = bytes(len(image[at:end]))
        case 4:
            del image[at : rng.choice([end, len(image)])]
        case 5:
            image[at:at] = rng.choice([image[at:end], rng.randbytes(end - at)])
        case 6:
            image[at:end] = image[other : other + len(image[at:end])]
        case 7:
            image[at : at + width] = number.to_bytes(width, 'little')


@pytest.mark.parametrize('part', [0, 0.01, 0.3, 0.9, 0.99999])
@pytest.mark.parametrize('name', FORMATS)
def test_truncated_files(name: str, part: float, tmp_path: Path) -> None:
    sound = FORMATS[name]()
    (tmp_path / name).write_bytes(sound[: int(len(sound) * part)])
    assert 'corrupt or truncated ' in refusal(tmp_path / name)


@pytest.mark.parametrize('name', FORMATS)
def test_mutated_files(name: str, tmp_path: Path) -> None:
    sound, file, rng = FORMATS[name](), tmp_path / name, random.Random(0)
    file.write_bytes(sound)
    expected = {k: v.clone() for k, v in read_checkpoint(file).tensors.items()}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for case in range(COUNT):
        image = bytearray(sound)
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            if image:
                mutate(image, rng)
        # A new file every time, for tensors may still be mapped from the old one.
        file.unlink()
        file.write_bytes(image)
        start = time.monotonic()
        try:
            checkpoint = read_checkpoint(file)
            if name in ('zip.pth', 'plain.pth'):
                assert checkpoint.tensors.keys() == expected.keys(), f'case {case} has other tensors'
                assert all(torch.equal(v, expected[k]) for k, v in checkpoint.tensors.items()), f'case {case}'
            translate(checkpoint)
        except CheckpointError as e:
            refused += 1
            assert str(e).isprintable() and len(str(e)) < 1500, f'case {case}: {e}'
        except Exception as e:
            raise AssertionError(f'case {case} raised {type(e).__name__}: {e}') from e
        assert time.monotonic() - start < 20, f'case {case} took long'
    # In kB; a file has less than 200.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300_000
    assert refused > COUNT / 4
