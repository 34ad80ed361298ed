"""The images of layouts.py, in memory: 32x32 pixels, one channel, in [-1, 1]."""

import functools
import gzip
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.model_selection import train_test_split
from timm.data import create_dataset

from ..train_digits import scaled_digits

FASHION_MNIST = Path('/usr/share/datasets/fashion-mnist')  # of Debian's package dataset-fashion-mnist
Part = tuple[torch.Tensor, torch.Tensor]  # images (N, 1, 32, 32) and classes (N,)


def _fashion_mnist(split: str) -> Part:
    if not FASHION_MNIST.exists():
        raise SystemExit(f'{FASHION_MNIST} does not exist; install the Debian package dataset-fashion-mnist.')
    files = (FASHION_MNIST / f'{split}-{kind}-ubyte.gz' for kind in ('images-idx3', 'labels-idx1'))
    pixels, classes = (torch.tensor(np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8)) for file in files)
    return F.pad(pixels[16:].view(-1, 1, 28, 28), (2, 2, 2, 2)) / 127.5 - 1, classes[8:].long()  # after the headers


def _folder(root: str, split: str) -> Part:
    dataset = create_dataset('', root=root, split=split, input_img_mode='L')
    images, classes = zip(*((np.array(image.resize((32, 32))), index) for image, index in dataset), strict=True)
    return torch.tensor(np.stack(images))[:, None] / 127.5 - 1, torch.tensor(classes)


def _split(part: Part, count: int, seed: int) -> tuple[Part, Part]:
    """`count` images with the same share of every class, and the others; all images if there are not more."""
    if count >= len(part[1]):
        return part, part
    rows = train_test_split(range(len(part[1])), train_size=count, random_state=seed, stratify=part[1])
    return tuple((part[0][own], part[1][own]) for own in rows)


@functools.cache
def load(data: str) -> tuple[Part, Part]:
    """All training and all held-out images: of fashion-mnist, digits, or train/CLASS/ and validation/CLASS/."""
    if data == 'digits':
        images, classes = scaled_digits()
        return _split((F.avg_pool2d(images, 2), classes), 1_000, seed=0)
    if data == 'fashion-mnist':
        return _fashion_mnist('train'), _fashion_mnist('t10k')
    return _folder(data, 'train'), _folder(data, 'validation')


def choose(data: str, count: int, for_recipe: bool, seed: int) -> tuple[Part, Part]:
    """`count` training images, and the held-out images or, for the choice of the recipe, 10,000 training images."""
    train, held_out = load(data)
    chosen, others = _split(train, count, seed if data == 'digits' else 0)
    return chosen, _split(others, 10_000, seed=0)[0] if for_recipe else held_out
