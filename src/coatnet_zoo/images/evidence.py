"""How a model classifies an image, where in the image the evidence is, and what the model learned about positions."""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_model_data_config
from torch import nn

from ..errors import ExplainError, shown
from ..files import open_regular
from ..hub import sentence
from ..network import CoAtNet, RelPosBias, RelPosMlp
from ..registry import INTERPOLATIONS, Crop, Positive, check, short
from ..slow import say_if_slow

_TOP = 5
# A photograph has a ratio of 4 at most, a panorama 20. Resizing a line of pixels would take gigabytes.
_LONGEST_RATIO = 100


@dataclass(frozen=True)
class BiasTable:
    """The relative position bias of one head.

    Attributes:
        stage: Number of the stage, from 1.
        block: Number of the block in the stage, from 1.
        head: Number of the head in the block, from 1.
        num_heads: Number of heads of the block.
        values: (2 * height - 1, 2 * width - 1) for a feature map of height x width; the row dy + height - 1 and the
            column dx + width - 1 are for a query that lies (dy, dx) after its key. Attention
            adds the values to its logits before softmax.
    """

    stage: int
    block: int
    head: int
    num_heads: int
    values: np.ndarray


@dataclass(frozen=True)
class Guess:
    """A class, its label and its probability."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True)
class Explanation:
    """How a model classifies an image, and where in the image the evidence is.

    Attributes:
        image: The input of the network, cropped and resized: (H, W, 3), or (H, W) for one channel; in [0, 1].
        top: The most probable classes, at most five, the most probable class first.
        target: The class of `evidence`.
        evidence: (h, w) of the feature map of the last stage: how much each place adds to the logit of the target; see
            `explain_image`.
        tables: One table of each stage that has Transformer blocks with a relative position bias.
    """

    image: np.ndarray
    top: tuple[Guess, ...]
    target: Guess
    evidence: np.ndarray
    tables: tuple[BiasTable, ...]


def image_endings() -> tuple[str, ...]:
    """The endings of the names of files that Pillow can open, in small letters: '.png', '.jpg', ..."""
    Image.init()
    return tuple(ending for ending, kind in Image.EXTENSION.items() if kind in Image.OPEN)


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
    except UnidentifiedImageError as e:
        raise ExplainError(f'{shown(path)} is not an image that can be read; give a PNG or JPEG file.') from e
    except Exception as e:  # Pillow's readers raise most kinds of exceptions on damaged files
        raise ExplainError(
            f'{shown(path)} is not an image that can be read ({shown(sentence(e))}); give a PNG or JPEG file.'
        ) from e
    if image.mode in ('I', 'F'):
        raise ExplainError(f'{shown(path)} has 32 bits a pixel, of a range that is not known; save it with 8 bits.')
    if max(image.size) > _LONGEST_RATIO * min(image.size):
        raise ExplainError(f'{shown(path)} of {image.width}x{image.height} pixels is too thin for a model; crop it.')
    return image


def data_config(model: CoAtNet, size: tuple[int, int]) -> dict[str, Any]:
    """How images are prepared for a model, in the form that `timm.data.create_transform` takes.

    Args:
        model: A CoAtNet.
        size: (height, width) of the prepared images in pixels.

    Raises:
        ExplainError: If the configuration of the model has no mean and std for its channels.
    """
    config = resolve_model_data_config(model, args={'input_size': (model.in_chans, *size)})
    _check_preprocessing(model.in_chans, config)
    return config


def prepare_image(image: Image.Image, config: dict[str, Any]) -> torch.Tensor:
    """Prepare an image of any mode and size for a model, as (C, H, W). The `data_config` has one channel or three."""
    return create_transform(**config)(_to_channels(image, config['input_size'][0]))


@say_if_slow('Explaining the image')
def explain_image(image: Image.Image, model: CoAtNet, target: int | None = None) -> Explanation:
    """Explain how a model classifies an image, and where in the image the evidence is.

    The evidence is Grad-CAM (Selvaraju et al., arXiv 1610.02391) over the last stage, including its negative part:
    features weighted by the mean over all places of the gradient of the logit. If a linear classifier follows the
    average pooling (`chinhsuanwu`, `keras_cv`), the evidence of a place is its part of the logit, without the bias. In
    other networks, the evidence is that part to first order. If a norm follows the pooling (`paper`), positive and
    negative evidence balance. The evidence is over the last stage and not over the final norm, because after timm's
    final norm, empty places have features as large as all other places. Variants that multiply gradient and features
    place by place (HiResCAM) do not work here, because their products cancel before the final norm.

    Of the position tables of a stage, the result has the table whose values differ most (largest standard deviation).

    Args:
        image: An image of any mode and size. The image is prepared for `model.img_size` with the configuration of the
            model. Transparency becomes white.
        model: A CoAtNet in float32 on any device, not from `optimize_for_inference`. The call puts the model into
            evaluation mode.
        target: The class of the evidence. Default: the most probable class.

    Raises:
        ExplainError: If the model is not a complete CoAtNet with a classifier, takes neither one channel nor three, has
            no mean and std for its channels, or has no class `target`.
    """
    _check(model, target)
    config = data_config(model, model.img_size)
    pixels = prepare_image(image, config)
    with _recorded_sizes(model) as sizes:
        logits, chosen, evidence = _grad_cam(model.eval(), pixels, target)
    labels, probabilities = class_labels(model), logits.softmax(0).tolist()
    order = logits.argsort(descending=True, stable=True).tolist()
    guesses = {i: Guess(i, labels[i], probabilities[i]) for i in order}
    std, mean = (torch.tensor(config[key]).view(-1, 1, 1) for key in ('std', 'mean'))
    seen = (pixels * std + mean).clamp(0, 1)
    return Explanation(
        image=seen.permute(1, 2, 0).squeeze(2).numpy(),
        top=tuple(guesses.values())[:_TOP],
        target=guesses[chosen],
        evidence=evidence.numpy(),
        tables=_tables(model, sizes),
    )


def _grad_cam(model: CoAtNet, pixels: torch.Tensor, target: int | None) -> tuple[torch.Tensor, int, torch.Tensor]:
    """Compute the logits, the class, and the evidence (h, w) for the class; all on the CPU."""
    device = next(model.parameters()).device
    with torch.inference_mode(False):
        with torch.no_grad():
            features = model.stages(model.stem(pixels[None].to(device)))
        features.requires_grad_()
        with torch.enable_grad():
            logits = model.forward_head(model.norm(features))[0]
            chosen = int(logits.argmax()) if target is None else target
            (gradient,) = torch.autograd.grad(logits[chosen], features)
    evidence = torch.einsum('c,chw->hw', gradient[0].mean((1, 2)), features[0].detach())
    return logits.detach().cpu(), chosen, evidence.cpu()


def _check(model: CoAtNet, target: int | None) -> None:
    if not isinstance(model, CoAtNet) or not all(hasattr(stage, 'blocks') for stage in model.stages):
        raise ExplainError('Only a whole CoAtNet can be explained, not a part nor one from optimize_for_inference.')
    classes = model.num_classes
    if not classes or not model.global_pool:
        raise ExplainError('The model has no classifier, so there is no class to explain; load one that has.')
    if model.in_chans not in (1, 3):
        raise ExplainError(f'The model takes {model.in_chans} channels; only images of 1 or 3 can be explained.')
    if target is not None and not 0 <= target < classes:
        raise ExplainError(f'There is no class {target}; the model has {classes}, 0 to {classes - 1}.')


def _check_preprocessing(channels: int, config: Mapping[str, Any]) -> None:
    """Refuse preprocessing for which timm's transforms would fail or not end."""
    if len(config['mean']) != channels or len(config['std']) != channels:
        raise ExplainError(
            f'The model takes {channels} channels, but its configuration has mean {short(config["mean"])} and std '
            f'{short(config["std"])}; put the mean and std of the training there (pretrained_cfg in config.json).'
        )
    try:
        check('mean', config['mean'], tuple[float, ...])
        check('std', config['std'], tuple[Positive, ...])
        check('crop_pct', config['crop_pct'], Crop)
        check('interpolation', config['interpolation'], Literal[tuple(INTERPOLATIONS)])
    except ValueError as e:
        raise ExplainError(f"In the model's configuration, {e}") from e


def _to_channels(image: Image.Image, channels: int) -> Image.Image:
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


def class_labels(model: CoAtNet) -> list[str]:
    """The known labels of the classes, or 'class 0', 'class 1' and so on."""
    return known_labels(model) or [f'class {i}' for i in range(model.num_classes)]


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


@contextlib.contextmanager
def _recorded_sizes(model: CoAtNet) -> Iterator[dict[nn.Module, tuple[int, int]]]:
    """Record the (height, width) of every call to a relative position bias inside the `with` block."""
    sizes: dict[nn.Module, tuple[int, int]] = {}
    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, (RelPosBias, RelPosMlp)):
                stack.enter_context(module.register_forward_pre_hook(lambda m, size: sizes.update({m: size})))
        yield sizes


def _tables(model: CoAtNet, sizes: dict[nn.Module, tuple[int, int]]) -> tuple[BiasTable, ...]:
    found = []
    for s, stage in enumerate(model.stages, start=1):
        tables = []
        for b, block in enumerate(stage.blocks, start=1):
            for module in filter(sizes.__contains__, block.modules()):
                heads = _table(module, *sizes[module])
                tables += [BiasTable(s, b, h, len(heads), values) for h, values in enumerate(heads, start=1)]
        if tables:
            found.append(max(tables, key=lambda table: table.values.std()))
    return tuple(found)


@torch.no_grad()
def _table(module: nn.Module, height: int, width: int) -> np.ndarray:
    """The table of a bias, (heads, 2 * height - 1, 2 * width - 1)."""
    return module.table(height, width).T.reshape(-1, 2 * height - 1, 2 * width - 1).cpu().numpy()
