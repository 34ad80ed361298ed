"""Image files as a model takes them, and the labels of the model's classes."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_model_data_config

from ..errors import ExplainError, first_line, shown
from ..files import open_regular
from ..network import CoAtNet
from ..registry import INTERPOLATIONS, Crop, Positive, check, short

# A photograph has a ratio of 4 at most, a panorama 20. Resizing a line of pixels would take gigabytes.
_LONGEST_RATIO = 100


@dataclass(frozen=True)
class Guess:
    """A class, its label if the model has labels, and its probability."""

    index: int
    label: str | None
    probability: float

    @property
    def name(self) -> str:
        """The label, or 'class 7' without a label."""
        return f'class {self.index}' if self.label is None else self.label


def classifier_problem(model: CoAtNet) -> str | None:
    """Why a model cannot classify image files; None if it can."""
    if not model.num_classes or not model.global_pool:
        return 'The model has no classifier; load one that has.'
    if model.in_chans not in (1, 3):
        return f'The model takes {model.in_chans} channels; image files have 1 or 3.'
    return None


def open_image(path: str | os.PathLike) -> Image.Image:
    """Read an image file, upright as the camera recorded it.

    Raises:
        ExplainError: If the file does not exist, is not a complete image, is more than 100 times as long as wide, or
            if its brightness has no known range.
    """
    try:
        with warnings.catch_warnings(), open_regular(path) as opened, Image.open(opened) as file:
            # Pillow warns about very large images, and raises this error for images of twice that size.
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            image = ImageOps.exif_transpose(file)
    except FileNotFoundError as e:
        raise ExplainError(f'There is no image {shown(path)}.') from e
    except Exception as e:  # Pillow's readers raise most kinds of exceptions on damaged files
        reason = '' if isinstance(e, UnidentifiedImageError) else f' ({shown(first_line(e))})'
        raise ExplainError(f'{shown(path)} is not an image that can be read{reason}; give a PNG or JPEG file.') from e
    if image.mode in ('I', 'F'):
        raise ExplainError(f'{shown(path)} has 32 bits a pixel, of a range that is not known; save it with 8 bits.')
    if max(image.size) > _LONGEST_RATIO * min(image.size):
        raise ExplainError(f'{shown(path)} of {image.width}x{image.height} pixels is too thin for a model; crop it.')
    return image


def data_config(model: CoAtNet, size: tuple[int, int]) -> dict[str, Any]:
    """The preprocessing to (height, width) in pixels, in the form that `timm.data.create_transform` takes.

    Raises:
        ExplainError: If the configuration of the model has no mean and std for its channels, or a value with which
            timm's transforms would fail or not end.
    """
    config = resolve_model_data_config(model, args={'input_size': (model.in_chans, *size)})
    if not len(config['mean']) == len(config['std']) == model.in_chans:
        channels = '1 channel' if model.in_chans == 1 else f'{model.in_chans} channels'
        raise ExplainError(
            f'The model takes {channels}, but its configuration has mean {short(config["mean"])} and std '
            f'{short(config["std"])}; put the mean and std of the training there (pretrained_cfg in config.json).'
        )
    try:
        check('mean', config['mean'], tuple[float, ...])
        check('std', config['std'], tuple[Positive, ...])
        check('crop_pct', config['crop_pct'], Crop)
        check('interpolation', config['interpolation'], Literal[tuple(INTERPOLATIONS)])
    except ValueError as e:
        raise ExplainError(f"In the model's configuration, {e}") from e
    return config


def prepare_image(image: Image.Image, config: dict[str, Any]) -> torch.Tensor:
    """Prepare an image of any mode and size, as (C, H, W), by a `data_config` for one channel or three.

    Transparency becomes white.
    """
    if image.mode.startswith('I;16'):
        # Pillow would clip values above 255.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    if image.mode == 'LAB':
        # Pillow converts LAB only with a profile.
        profiles = (ImageCms.createProfile(space) for space in ('LAB', 'sRGB'))
        image = ImageCms.profileToProfile(image, *profiles, outputMode='RGB')
    return create_transform(**config)(image.convert('L' if config['input_size'][0] == 1 else 'RGB'))


def known_labels(model: CoAtNet) -> list[str] | None:
    """The labels of the classes, or None. 1000 classes without labels get those of ImageNet, as in timm's scripts."""
    names = model.pretrained_cfg.get('label_names') or ()
    if isinstance(names, Mapping):  # keys are class numbers, which JSON writes as text
        names = [names.get(str(i), names.get(i)) for i in range(model.num_classes)]
    if len(names) == model.num_classes and all(isinstance(name, str) for name in names):
        return list(names)
    if subset := infer_imagenet_subset(model):
        return ImageNetInfo(subset).label_descriptions()
    return None


def class_labels(model: CoAtNet) -> list[str]:
    """The known labels of the classes, or 'class 0', 'class 1' and so on."""
    return known_labels(model) or [f'class {i}' for i in range(model.num_classes)]
