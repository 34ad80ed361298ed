"""Converting the checkpoints of foreign codes into folders that timm loads, locally or from the Hugging Face Hub."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.models import save_for_hf

from ..checkpoints import (
    Structure,
    Translation,
    check_values,
    foreign_codes,
    identify,
    read_checkpoint,
    translate,
)
from ..errors import CheckpointError, shown
from ..files import CARD, CONFIG, write_folder
from ..hub import make_folder_card
from ..network import num_params
from ..slow import say_if_slow
from .destination import check_destination, mark
from .said import check_said, data_config


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        folder: The folder that `timm.create_model('local-dir:...')` takes.
        size: Registered name that the configuration builds on.
        structure: The structure of the network, read from the tensors.
        num_params: Parameters of the model.
        assumed: Preprocessing that is neither an argument nor in the file, by name.
    """

    folder: Path
    size: str
    structure: Structure
    num_params: int
    assumed: dict[str, Any]


@say_if_slow('Converting the checkpoint')
def convert_checkpoint(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    ema: bool = False,
    img_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
    labels: Sequence[str] | None = None,
    name: str | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Convert a checkpoint of chinhsuanwu/coatnet-pytorch or keras_cv_attention_models into a folder for timm.

    The structure is read from the tensors. The folder gets `model.safetensors`, `config.json` and `README.md`.
    Afterwards `timm.create_model('local-dir:DST', pretrained=True)` gives the logits of the original code, and so does
    `hf-hub:` once the folder is pushed to the Hub. The folder appears whole or not at all.

    Args:
        src: A `.pth`, `.pt`, `.bin` or `.safetensors` file with the state dict, wrapped or not; or a `.h5` file of
            Keras, the whole model or weights only.
        dst: Folder to write. Without `overwrite`, the folder must not exist. Missing parents are made.
        ema: Take the moving average that the checkpoint has in addition to the weights.
        img_size: Height and width in pixels; only for networks without attention, because their files have no size.
        mean: Mean of the training images per channel, in [0, 1]. Default: ImageNet's mean.
        std: Standard deviation of the training images per channel, in [0.001, 1]. Default: ImageNet's.
        interpolation: How images were resized, one of `INTERPOLATIONS`. Default: bicubic.
        crop_pct: Share of the resized image that evaluation crops, in [0.1, 1]. Default: 0.875 for chinhsuanwu, and
            0.95 for keras_cv_attention_models, whose evaluation crops that share.
        labels: Names of the classes, one per class.
        name: Name of the weights, recorded as the configuration's tag.
        overwrite: Replace `dst` if it is the folder of an earlier conversion, and has not been changed since.

    Raises:
        CheckpointError: If the checkpoint is damaged, pickled, incomplete, or of another code; if an argument does not
            fit the checkpoint; if the folder cannot be written; or if h5py is missing for a `.h5` file.
    """
    dst = Path(dst)
    check_dst = partial(check_destination, Path(src), overwrite=overwrite)
    check_dst(dst)
    check_said(mean, std, interpolation, crop_pct, img_size, labels, name)
    checkpoint = read_checkpoint(src, ema)
    translation = translate(checkpoint)
    if translation is None:
        raise CheckpointError(_not_convertible(src, checkpoint.tensors))
    structure, impl = translation.structure, translation.impl
    img_size = _input_size(structure, img_size)
    preprocessing, assumed = data_config(translation.code, structure.in_chans, mean, std, interpolation, crop_pct)
    if labels is not None and len(labels) != structure.num_classes:
        raise CheckpointError(
            f'{len(labels)} labels were given, but the checkpoint has {structure.num_classes} classes.'
        )
    size, args = structure.as_registered(impl)
    args['img_size'] = img_size
    try:
        model = timm.create_model(size, impl=impl, **args, device='meta')
    except ValueError as e:
        raise CheckpointError(f'{src} has a structure that impl={impl!r} does not have: {e}') from e
    _fill(model, translation, str(src))
    model_config: dict[str, Any] = {}
    if name is not None:
        model_config['pretrained_cfg'] = dict(tag=name)
    if labels is not None:
        model_config['label_names'] = list(labels)
    _write(model, dst, check_dst, model_config, preprocessing)
    return Conversion(dst, size, structure, num_params(model), assumed)


def _not_convertible(src: str | os.PathLike, tensors: Mapping[str, torch.Tensor]) -> str:
    known = identify(tensors)
    if known is None:
        some = ', '.join(map(shown, list(tensors)[:3]))
        codes = ' or '.join(code.title for code in foreign_codes().values())
        return f'{src} is not a checkpoint of {codes}: its tensors are {some}, ...'
    if known.size is None:
        return f"{src} is {known.title}, which has blocks that no network of this package has; load it by timm's own."
    return f'{src} is {known.title} and needs no conversion: {known.call} loads it.'


def _input_size(structure: Structure, img_size: int | None) -> tuple[int, int]:
    if structure.img_size is None:
        side = img_size or 224
        return side, side
    if img_size is not None and structure.img_size != (img_size, img_size):
        raise CheckpointError(f'img_size={img_size} was given, but the checkpoint was trained at {structure.img_size}.')
    return structure.img_size


def _fill(model: torch.nn.Module, translation: Translation, src: str) -> None:
    """Give a model on the meta device its tensors, in the precision of the model. No two tensors share memory."""
    _check_shapes(translation, model)
    own = model.state_dict()
    check_values(translation.tensors, own, src, translation.foreign_names)
    memory: set[int] = set()
    tensors = {}
    for key, tensor in translation.tensors.items():
        tensor = tensor.detach().to(own[key].dtype).contiguous()
        place = tensor.untyped_storage().data_ptr()
        tensors[key] = tensor.clone() if place in memory else tensor
        memory.add(place)
    torch.nn.Module.load_state_dict(model, tensors, assign=True)


def _check_shapes(translation: Translation, model: torch.nn.Module) -> None:
    tensors, impl, foreign_names = translation.tensors, translation.impl, translation.foreign_names
    for key, expected in model.state_dict().items():
        name = shown(foreign_names.get(key, key))
        if tensors[key].shape != expected.shape:
            raise CheckpointError(
                f'The tensor {name} of the {impl} checkpoint has {tensors[key].numel()} values, but the network that '
                f'its other tensors describe needs {expected.numel()} there (shape {tuple(expected.shape)}, has '
                f'{tuple(tensors[key].shape)}).'
            )


def _write(
    model: torch.nn.Module,
    dst: Path,
    check_dst: Callable[[Path], None],
    model_config: dict[str, Any],
    preprocessing: dict[str, Any],
) -> None:
    def save(folder: Path) -> None:
        save_for_hf(model, folder, model_config=model_config, data_config=preprocessing, safe_serialization=True)
        config = json.loads((folder / CONFIG).read_text(encoding='utf-8'))
        card = make_folder_card(shown(dst.name), config, num_params(model))
        (folder / CARD).write_text(card, encoding='utf-8')
        mark(folder, config)

    try:
        write_folder(dst, save, check_dst)
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f'{shown(dst)} cannot be written: {getattr(e, "strerror", None) or e}.') from e
