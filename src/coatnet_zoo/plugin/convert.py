"""Converting the checkpoints of foreign codes into folders that timm loads, locally or from the Hugging Face Hub."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import save_for_hf

from ..checkpoints import (
    Structure,
    Translation,
    check_values,
    foreign_codes,
    identify,
    read_checkpoint,
    shown,
    translate,
)
from ..errors import CheckpointError
from ..files import CONFIG, SAFETENSORS, write_folder
from ..network import num_params
from ..tables import INTERPOLATIONS, ForeignCode


@dataclass(frozen=True)
class Conversion:
    """What a conversion read and wrote.

    Attributes:
        folder: The folder that `timm.create_model('local-dir:...')` takes.
        size: Registered name that the configuration builds on.
        structure: What was read off the tensors.
        num_params: Parameters of the model.
        assumed: Preprocessing that nobody said and that the file does not hold, by name.
    """

    folder: Path
    size: str
    structure: Structure
    num_params: int
    assumed: dict[str, Any]


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

    The structure is read off the tensors. The folder gets `model.safetensors` and `config.json`. Afterwards
    `timm.create_model('local-dir:DST', pretrained=True)` gives the logits of the original code, and so does `hf-hub:`
    once the folder is pushed to the Hub. The folder appears whole or not at all.

    Args:
        src: A `.pth`, `.pt`, `.bin` or `.safetensors` file with the state dict, wrapped or not; or a `.h5` file of
            Keras, the whole model or weights only.
        dst: Folder to write; must not exist unless `overwrite`.
        ema: Take the moving average that the checkpoint has beside the weights.
        img_size: Height and width in pixels; only for networks without attention, whose file does not say the size.
        mean: Mean of the training images per channel, in [0, 1]; ImageNet's unless given.
        std: Standard deviation of the training images per channel, likewise.
        interpolation: How images were resized, one of `INTERPOLATIONS`; bicubic unless given.
        crop_pct: Share of the resized image that evaluation crops, in (0, 1]; unless given, 0.875 for chinhsuanwu, and
            0.95 for keras_cv_attention_models, whose evaluation crops that share.
        labels: Names of the classes.
        name: Name of the weights, recorded as the configuration's tag.
        overwrite: Replace `dst` if it is the folder of an earlier conversion.

    Raises:
        CheckpointError: If the checkpoint is damaged, pickled, not one of these codes', or incomplete, if an argument
            does not fit it, if the folder cannot be written, or if h5py is missing for a `.h5` file.
    """
    dst = Path(dst)
    _check_destination(dst, overwrite)
    checkpoint = read_checkpoint(src, ema)
    translation = translate(checkpoint)
    if translation is None:
        raise CheckpointError(_not_convertible(src, checkpoint.tensors))
    structure, impl = translation.structure, translation.impl
    img_size = _input_size(structure, img_size)
    data_config, assumed = _data_config(translation.code, structure.in_chans, mean, std, interpolation, crop_pct)
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
    _write(model, dst, model_config, data_config)
    return Conversion(dst, size, structure, num_params(model), assumed)


def _check_destination(dst: Path, overwrite: bool) -> None:
    if not dst.exists():
        return
    if not overwrite:
        raise CheckpointError(f'{dst} exists already; choose another folder or pass overwrite (--overwrite).')
    if not dst.is_dir() or {p.name for p in dst.iterdir()} - {SAFETENSORS, CONFIG}:
        raise CheckpointError(f'{dst} is not the folder of an earlier conversion, so it is not overwritten.')


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
        return (img_size or 224, img_size or 224)
    if img_size is not None and structure.img_size != (img_size, img_size):
        raise CheckpointError(f'img_size={img_size} was given, but the checkpoint was trained at {structure.img_size}.')
    return structure.img_size


def _data_config(
    code: ForeignCode,
    in_chans: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    interpolation: str | None,
    crop_pct: float | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """timm's data_config from the given values, and the part of the data_config that had to be assumed."""

    def imagenet(values: Sequence[float]) -> tuple[float, ...]:
        # timm also takes the average where an image does not have three channels.
        return tuple(values) if in_chans == 3 else (round(sum(values) / 3, 3),) * in_chans

    for what, values in (('mean', mean), ('std', std)):
        if values is not None and len(values) not in (1, in_chans):
            raise CheckpointError(
                f'{what} has {len(values)} values, but the checkpoint takes images of {in_chans} channels.'
            )
    if std is not None and min(std) <= 0:
        raise CheckpointError(f'std must be positive, got {tuple(std)}.')
    if interpolation is not None and interpolation not in INTERPOLATIONS:
        raise CheckpointError(f'interpolation {interpolation!r} does not exist; choose {", ".join(INTERPOLATIONS)}.')
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise CheckpointError(f'crop_pct must lie in (0, 1], got {crop_pct}.')
    said = dict(mean=mean, std=std, interpolation=interpolation, crop_pct=crop_pct)
    default = dict(
        mean=imagenet(IMAGENET_DEFAULT_MEAN),
        std=imagenet(IMAGENET_DEFAULT_STD),
        interpolation=code.interpolation,
        crop_pct=code.crop_pct,
    )
    assumed = {k: v for k, v in default.items() if said[k] is None}
    return {**said, **assumed}, assumed


def _fill(model: torch.nn.Module, translation: Translation, src: str) -> None:
    """Give a model on the meta device its tensors, in the precision of the model and none in the memory of another."""
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


def _write(model: torch.nn.Module, dst: Path, model_config: dict[str, Any], data_config: dict[str, Any]) -> None:
    def save(folder: Path) -> None:
        save_for_hf(model, folder, model_config=model_config, data_config=data_config, safe_serialization=True)

    try:
        write_folder(dst, save)
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f'{dst} cannot be written: {e}') from e
