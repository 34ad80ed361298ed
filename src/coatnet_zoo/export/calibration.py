"""The images for the calibration of 8-bit integers: the files of a folder, prepared for a model."""

import math
import os
from typing import Any

import numpy as np

from coatnet_zoo_runtime import ImageError, open_image, prepare

from ..errors import ExportError
from ..images import find_images

# The default of NNCF. More images hardly change the ranges of values.
_MOST = 300


def read_images(folder: str | os.PathLike, config: dict[str, Any]) -> list[np.ndarray]:
    """Read and prepare at most 300 images of a folder and its subfolders, spread evenly over the sorted names.

    Files without the extension of an image are skipped. The arrays are (1, C, H, W).

    Raises:
        ExportError: If there are no images, if an image cannot be read, or if the model takes neither 1 nor 3 channels.
    """
    if not os.path.isdir(folder):
        raise ExportError(f'There is no folder {folder}; calibration needs a few dozen typical images.')
    files, problems = find_images([os.fspath(folder)])
    if not files:
        raise ExportError(f'{problems[0]} Calibration needs a few dozen typical images.')
    try:
        chosen = files[:: math.ceil(len(files) / _MOST)]
        return [prepare(open_image(file), config)[None] for file in chosen]
    except ImageError as e:
        raise ExportError(str(e)) from e
