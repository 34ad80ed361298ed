"""The images for layouts.py: scikit-learn's digits, or a folder of images."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2.functional import pil_to_tensor
from tqdm import tqdm

from ..train_digits import IMG_SIZE, scaled_digits


@dataclass(frozen=True)
class Images:
    """All images, in memory.

    Attributes:
        x: (N, 3, 64, 64) in [-1, 1].
        y: Classes (N,).
    """

    x: torch.Tensor
    y: torch.Tensor

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return self.x.shape[-1]

    @property
    def num_classes(self) -> int:
        """Classes."""
        return int(self.y.max()) + 1

    def split(self, seed: int, train: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """A stratified part of `train` images to train on, and the rest: images, classes, images, classes.

        Raises:
            ValueError: If there are fewer images, or too few images for every class to be in both parts.
        """
        rows = train_test_split(range(len(self.y)), train_size=train, random_state=seed, stratify=self.y)
        return self.x[rows[0]], self.y[rows[0]], self.x[rows[1]], self.y[rows[1]]


def _square(image: Image.Image) -> torch.Tensor:
    """Scale an image to fit, on a white background; transparent pixels become white."""
    image = image.convert('RGBA')
    image.thumbnail((IMG_SIZE, IMG_SIZE), Image.Resampling.BICUBIC)
    canvas = Image.new('RGBA', (IMG_SIZE, IMG_SIZE), 'white')
    canvas.alpha_composite(image, ((IMG_SIZE - image.width) // 2, (IMG_SIZE - image.height) // 2))
    return pil_to_tensor(canvas.convert('RGB'))


def load_images(folder: Path | None) -> Images:
    """Read and scale images.

    Args:
        folder: A folder with one folder of images for each class. None: the digits.

    Raises:
        FileNotFoundError: If there are no images.
    """
    if folder is None:
        x, y = scaled_digits()
        return Images(x.repeat(1, 3, 1, 1), y)
    dataset = ImageFolder(str(folder), transform=_square)
    pictures, classes = zip(*tqdm(dataset, desc='reading', unit='image'), strict=True)
    return Images(torch.stack(pictures) / 127.5 - 1, torch.tensor(classes))
