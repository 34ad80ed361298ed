"""Models that `coatnet-zoo export` wrote, without torch and timm.

    model = coatnet_zoo_runtime.load_exported('exported')
    logits = model(model.prepare('photo.jpg')[None])

This file needs numpy, Pillow and the runtime of the format. It imports nothing else of coatnet-zoo, so it can be copied
to a machine that has neither coatnet-zoo nor torch.
"""

import functools
import hashlib
import json
import math
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

RECORD_FILE = 'preprocessing.json'

_Compute = Callable[[list[np.ndarray]], list[np.ndarray]]  # images (B, C, H, W) -> logits (B, num_classes)
# A photograph has a ratio of 4 at most, a panorama 20. Resizing a line of pixels would take gigabytes.
_LONGEST_RATIO = 100


class ExportedModelError(ValueError):
    """An exported model cannot be loaded, or does not take these images."""


class ImageError(ValueError):
    """A file is not an image that a model can take."""


def load_exported(
    folder: str | os.PathLike, performance: Literal['latency', 'throughput'] = 'latency', threads: int | None = None
) -> 'ExportedModel':
    """Load a folder that `coatnet-zoo export` or `coatnet_zoo.export_model` wrote.

    Args:
        folder: The folder, with `preprocessing.json` and the files of one format: openvino, onnx or pt2.
        performance: 'latency' computes one image as fast as possible, 'throughput' a batch. Only OpenVINO differs; its
            models of 8-bit integers always have 'latency'.
        threads: Threads of the runtime. Default: one for each core. For pt2, this sets `torch.set_num_threads`.

    Returns:
        A function of images: (B, C, H, W) -> logits (B, num_classes), float32. Several threads may call it.

    Raises:
        ExportedModelError: If the folder is incomplete or has changed, or if the runtime is not installed.
    """
    if performance not in ('latency', 'throughput'):
        raise ExportedModelError(f'performance={performance!r} does not exist; choose latency or throughput.')
    folder = Path(folder)
    record = _read_record(folder)
    if record.get('int8'):
        performance = 'latency'  # OpenVINO 2026.4 computes wrong logits with 8-bit integers on several streams
    format = record['format']
    try:
        compute = _LOADERS[format](folder, performance, threads)
    except ImportError as e:
        runtime = {'onnx': 'onnxruntime', 'pt2': 'torch'}.get(format, format)
        extra = '' if format == 'pt2' else f" or 'coatnet-zoo[{format}]'"
        raise ExportedModelError(f'{folder} needs {runtime} ({_first_line(e)}): pip install {runtime}{extra}.') from e
    except Exception as e:  # runtimes raise most kinds of exceptions
        raise ExportedModelError(f'{folder} cannot be loaded by its runtime ({_first_line(e)}).') from e
    return ExportedModel(record, compute)


class ExportedModel:
    """A model of an exported folder: a function of images, with what is needed to prepare images and name classes.

    Attributes:
        labels: The names of the classes; None if the model has none.
        preprocessing: What timm's `create_transform` takes: input_size, mean, std, interpolation, crop_pct, crop_mode.
        input_size: (channels, height, width) of the prepared images.
        format: 'openvino', 'onnx' or 'pt2'.
        dynamic: The dimensions of any size, of 'batch', 'height' and 'width'.
    """

    def __init__(self, record: Mapping[str, Any], compute: _Compute) -> None:
        self.labels: list[str] | None = record['labels']
        self.format: str = record['format']
        self.dynamic: list[str] = record['dynamic']
        self.preprocessing = {key: record[key] for key in _PREPROCESSING}
        self.input_size: tuple[int, int, int] = tuple(record['input_size'])
        self._compute = compute

    def prepare(self, image: Image.Image | str | os.PathLike) -> np.ndarray:
        """Prepare an image, or the image in a file: (C, H, W), float32, exactly as timm's evaluation does.

        Raises:
            ImageError: If the file is not an image that can be read.
        """
        return prepare(image if isinstance(image, Image.Image) else open_image(image), self.preprocessing)

    def __call__(self, images: Any) -> Any:
        """Compute logits, (B, C, H, W) -> (B, num_classes): a `torch.Tensor` on its device if given one, else an array.

        Raises:
            ExportedModelError: If the images have another shape, or integer values.
        """
        torch = sys.modules.get('torch')
        is_tensor = torch is not None and isinstance(images, torch.Tensor)
        array = images.detach().cpu() if is_tensor else np.asarray(images)
        if is_tensor:  # numpy has no bfloat16
            array = (array.float() if array.is_floating_point() else array).numpy()
        self._check(array)
        array = np.ascontiguousarray(array, np.float32)
        logits = np.concatenate(self._compute([array] if 'batch' in self.dynamic else np.split(array, len(array))))
        if self.labels is not None and len(self.labels) != logits.shape[1]:
            raise ExportedModelError(f'{RECORD_FILE} has {len(self.labels)} labels for {logits.shape[1]} classes.')
        return torch.from_numpy(logits).to(images.device) if is_tensor else logits

    def _check(self, images: np.ndarray) -> None:
        sides = zip(('height', 'width'), self.input_size[1:], images.shape[2:], strict=False)
        fits = images.ndim == 4 and len(images) and images.shape[1] == self.input_size[0]
        if not fits or any(name not in self.dynamic and side != found for name, side, found in sides):
            shape = ['B', *map(str, self.input_size)]
            shape = [name[0].upper() if name in self.dynamic else n for name, n in zip(_AXES, shape, strict=True)]
            raise ExportedModelError(f'This model takes images ({", ".join(shape)}), not {images.shape}.')
        if images.dtype.kind != 'f':
            raise ExportedModelError(f'This model takes floating-point images, see prepare(); got {images.dtype}.')


@functools.cache
def register_heic() -> None:
    """Let Pillow open HEIC, the photos of iPhones, if pillow-heif is installed."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def open_image(path: str | os.PathLike) -> Image.Image:
    """Read an image file, upright as the camera recorded it.

    Raises:
        ImageError: If the file does not exist, is not a complete image, is more than 100 times as long as wide,
            or if its brightness has no known range.
    """
    name = os.fspath(path)
    name = name if name.isprintable() else repr(name)[1:-1]
    register_heic()
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError('not a regular file')  # a pipe or a device may have no end
        with warnings.catch_warnings(), open(path, 'rb') as opened, Image.open(opened) as file:
            # Pillow warns about very large images, and raises this error for images of twice that size.
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            image = ImageOps.exif_transpose(file)
    except FileNotFoundError as e:
        raise ImageError(f'There is no image {name}.') from e
    except Exception as e:  # Pillow's readers raise most kinds of exceptions on damaged files
        if isinstance(e, OSError) and e.errno:
            raise ImageError(f'{name} cannot be read: {e.strerror}.') from e
        reason = '' if isinstance(e, UnidentifiedImageError) else f' ({_first_line(e)})'
        raise ImageError(f'{name} is not an image that can be read{reason}; give a PNG or JPEG file.') from e
    _check_image(image, name)
    return image


def _check_image(image: Image.Image, name: str) -> None:
    if image.mode in ('I', 'F'):
        raise ImageError(f'{name} has 32-bit pixels of unknown range; save it with 8 bits.')
    if max(image.size) > _LONGEST_RATIO * min(image.size):
        raise ImageError(f'{name} of {image.width}x{image.height} pixels is too long and narrow for a model; crop it.')


def prepare(image: Image.Image, preprocessing: Mapping[str, Any]) -> np.ndarray:
    """Prepare an image of any mode and size: (C, H, W), float32, exactly as timm's `create_transform` does.

    The image is turned upright, and transparency becomes white.

    Raises:
        ImageError: If the preprocessing is for neither one channel nor three, or for the reasons of `open_image`.
    """
    channels, height, width = preprocessing['input_size']
    _check_image(image, 'The image')
    if channels not in (1, 3):
        raise ImageError(f'The model takes {channels} channels, but images have 1 or 3; only other arrays fit it.')
    image = opaque(ImageOps.exif_transpose(image), channels)
    method = Image.Resampling[preprocessing['interpolation'].upper()]
    image = image.resize(_scaled_size(image.size, preprocessing), method)
    border = preprocessing['crop_mode'] == 'border'
    colour = tuple(round(255 * v) for v in preprocessing['mean']) if border else (0,) * channels
    if image.width < width or image.height < height:
        larger = Image.new(image.mode, (max(image.width, width), max(image.height, height)), colour)
        larger.paste(image, (max(width - image.width, 0) // 2, max(height - image.height, 0) // 2))
        image = larger
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    image = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(image, np.float32).reshape(height, width, channels).transpose(2, 0, 1) / np.float32(255)
    mean, std = (np.asarray(preprocessing[key], np.float32)[:, None, None] for key in ('mean', 'std'))
    return np.ascontiguousarray((pixels - mean) / std)


def has_holes(image: Image.Image) -> bool:
    """Whether an image has transparent parts."""
    return image.has_transparency_data and image.convert('RGBA').getchannel('A').getextrema()[0] < 255


def opaque(image: Image.Image, channels: int) -> Image.Image:
    """An image of any mode on white, with 8 bits: grey for one channel, else RGB."""
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
    return image.convert('L' if channels == 1 else 'RGB')


def _scaled_size(size: tuple[int, int], preprocessing: Mapping[str, Any]) -> tuple[int, int]:
    """(width, height) to which an image is resized before it is cropped."""
    width, height = size
    mode = preprocessing['crop_mode']
    rows, columns = (math.floor(side / preprocessing['crop_pct']) for side in preprocessing['input_size'][1:])
    if mode == 'squash':
        return columns, rows
    if mode == 'border' or rows != columns:
        ratio = (max if mode == 'border' else min)(height / rows, width / columns)
        return round(width / ratio), round(height / ratio)
    long = int(rows * max(size) / min(size))
    return (rows, long) if width <= height else (long, rows)


_AXES = ('batch', 'channels', 'height', 'width')
_PREPROCESSING = ('input_size', 'mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')


def _read_record(folder: Path) -> dict[str, Any]:
    """The record of a folder, once the files have the hashes that it states."""
    try:
        record = json.loads((folder / RECORD_FILE).read_bytes())
        files, format = record['files'], record['format']
        own = {'model.xml', 'model.bin'} if format == 'openvino' else {f'model.{format}'}
        if not ({*_PREPROCESSING, 'labels', 'dynamic'} <= record.keys() and format in _LOADERS and own <= files.keys()):
            raise ValueError(f'{RECORD_FILE} is incomplete')
        for name, expected in files.items():
            if sha256_of(folder / name) != expected:
                raise ValueError(f'{name} has changed since the export')
    except FileNotFoundError as e:
        raise ExportedModelError(f'{folder} has no {Path(e.filename).name}; export the model again.') from e
    except Exception as e:  # a record may be anything
        raise ExportedModelError(f'{folder} cannot be used: {_first_line(e)}; export the model again.') from e
    return record


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open('rb') as opened:
        while chunk := opened.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _load_openvino(folder: Path, performance: str, threads: int | None) -> _Compute:
    import openvino

    # Processors that can do so would compute in bfloat16.
    config: dict[str, Any] = {'PERFORMANCE_HINT': performance.upper(), 'INFERENCE_PRECISION_HINT': 'f32'}
    if performance == 'latency':
        config['NUM_STREAMS'] = 1  # the hint is only a preference, but see `load_exported`
    if threads is not None:
        config['INFERENCE_NUM_THREADS'] = threads
    compiled = openvino.Core().compile_model(str(folder / 'model.xml'), 'CPU', config)
    streams = compiled.get_property('OPTIMAL_NUMBER_OF_INFER_REQUESTS')
    own = threading.local()

    def compute(parts: list[np.ndarray]) -> list[np.ndarray]:
        if not hasattr(own, 'requests'):
            own.requests = [compiled.create_infer_request() for _ in range(streams)]
        if len(parts) == 1:
            parts = np.array_split(parts[0], min(streams, len(parts[0])))
        logits = []
        for start in range(0, len(parts), streams):
            running = list(zip(own.requests, parts[start : start + streams], strict=False))
            for request, part in running:
                request.start_async({'images': part}, share_inputs=True)
            for request, _ in running:
                request.wait()
                logits.append(request.get_tensor('logits').data.copy())
        return logits

    return compute


def _load_onnx(folder: Path, performance: str, threads: int | None) -> _Compute:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(folder / 'model.onnx', options, providers=['CPUExecutionProvider'])
    return lambda parts: [session.run(['logits'], {'images': part})[0] for part in parts]


def _load_pt2(folder: Path, performance: str, threads: int | None) -> _Compute:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    network = torch._inductor.aoti_load_package(str(folder / 'model.pt2'))

    def compute(parts: list[np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [network(torch.from_numpy(part)).numpy() for part in parts]

    return compute


_LOADERS = {'openvino': _load_openvino, 'onnx': _load_onnx, 'pt2': _load_pt2}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
