"""Converting checkpoint files into folders that timm loads, locally or from the Hugging Face Hub."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from timm.models import save_for_hf
from torch import nn

from ..errors import CheckpointError, shown
from ..files import CARD, CONFIG, write_folder
from ..hub import make_folder_card
from ..slow import say_if_slow
from .adapters.timm_train import trained_source
from .codes import recognised, third_party_codes
from .destination import check_destination, mark
from .preprocessing import check_said, data_config
from .reading import read_checkpoint
from .recognition import identify
from .source import Source, own_source, third_party_source, with_three_channels
from .structure import Structure
from .values import check_values


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        folder: The folder that `timm.create_model('local-dir:...')` takes.
        size: Registered name that the configuration builds on.
        structure: The structure of the network, read from the tensors.
        num_params: Parameters of the model.
        assumed: Preprocessing that is neither an argument nor in the file, by name.
        left_out: The names of the tensors in the file that do not belong to the network.
    """

    folder: Path
    size: str
    structure: Structure
    num_params: int
    assumed: dict[str, Any]
    left_out: tuple[str, ...] = ()


@say_if_slow('Converting the checkpoint')
def convert_checkpoint(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    ema: bool = False,
    key: str | None = None,
    prefix: str | None = None,
    head: bool = True,
    in_chans: int | None = None,
    img_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
    labels: Sequence[str] | None = None,
    name: str | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Convert a checkpoint file into a folder for timm.

    The file is a checkpoint of chinhsuanwu/coatnet-pytorch or of keras_cv_attention_models, whose structure is read
    from the tensors; or what timm's train.py wrote, whose network is built from the arguments that the script records;
    or a state dict of a registered network. The folder gets `model.safetensors`, `config.json` and `README.md`.
    Afterwards `timm.create_model('local-dir:DST', pretrained=True)` gives the logits of the original model, and so does
    `hf-hub:` once the folder is pushed to the Hub. The folder appears whole or not at all.

    Args:
        src: A `.pth`, `.pt`, `.tar`, `.bin` or `.safetensors` file with the state dict, wrapped or not; or a `.h5` file
            of Keras, the whole model or weights only.
        dst: Folder to write. Without `overwrite`, the folder must not exist. Missing parents are made.
        ema: Take the moving average that the checkpoint has in addition to the weights.
        key: The key of the state dict in the file. Default: a usual key, or the only key with a state dict.
        prefix: The prefix of the names of the network. Default: the only prefix with a known network.
        head: Keep the classifier. Without classifier, the folder is a start for fine-tuning.
        in_chans: 3 makes three channels of one: the same logits for grey images with three equal channels.
        img_size: Height and width in pixels; only for networks whose files have no size, as those without attention.
        mean: Mean of the training images per channel, in [0, 1]. Default: the mean that train.py recorded, the mean of
            the registered network, or ImageNet's for a third-party code.
        std: Standard deviation of the training images per channel, in [0.001, 1]. Default: as for the mean.
        interpolation: How images were resized, one of `INTERPOLATIONS`. Default: as for the mean; bicubic for a
            third-party code.
        crop_pct: Share of the resized image that evaluation crops, in [0.1, 1]. Default: as for the mean; 0.875 for
            chinhsuanwu, and 0.95 for keras_cv_attention_models, whose evaluation crops that share.
        labels: Names of the classes, one per class.
        name: Name of the weights, recorded as the configuration's tag.
        overwrite: Replace `dst` if it is the folder of an earlier conversion, and has not been changed since.

    Raises:
        CheckpointError: If the checkpoint is damaged, pickled, incomplete, or of another code; if an argument does not
            fit the checkpoint; if the folder cannot be written; or if h5py is missing for a `.h5` file.
        HubError: If train.py started from a repository on the Hub whose configuration cannot be fetched.
    """
    dst = Path(dst)
    check_dst = partial(check_destination, Path(src), overwrite=overwrite)
    check_dst(dst)
    check_said(mean, std, interpolation, crop_pct, img_size, labels, name)
    checkpoint = read_checkpoint(src, ema, key, prefix)
    shown_src = shown(src, 500)
    for find_source in (third_party_source, trained_source, own_source):
        if source := find_source(checkpoint, shown_src, head, img_size):
            break
    else:
        raise CheckpointError(_not_convertible(shown_src, checkpoint.tensors))
    structure = source.structure
    preprocessing, assumed = data_config(source.preprocessing, structure.in_chans, mean, std, interpolation, crop_pct)
    if labels is not None and len(labels) != structure.num_classes:
        raise CheckpointError(
            f'{len(labels)} labels were given, but the checkpoint has {structure.num_classes} classes.'
        )
    if in_chans not in (None, structure.in_chans):
        source = with_three_channels(source, in_chans)
        structure = replace(structure, in_chans=3)
        grey = {name: (*preprocessing[name][:1],) * 3 for name in ('mean', 'std')}
        preprocessing = {**preprocessing, **grey}
    model = _filled(source, shown_src)
    size = preprocessing.get('input_size', (None, *model.img_size))[1:]
    if size != model.img_size:
        try:
            model.set_input_size(size)
        except ValueError as e:
            raise CheckpointError(f'{shown_src} was trained at {size}, which its network cannot keep: {e}') from e
    preprocessing['input_size'] = (model.in_chans, *size)
    model_config: dict[str, Any] = {}
    if name is not None:
        model_config['pretrained_cfg'] = dict(tag=name)
    if labels is not None:
        model_config['label_names'] = list(labels)
    _write(model, dst, check_dst, model_config, preprocessing)
    return Conversion(
        dst, source.name, structure, _num_params(model), assumed if source.assumes else {}, source.left_out
    )


def _num_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _not_convertible(src: str, tensors: Mapping[str, torch.Tensor]) -> str:
    known = identify(tensors)
    if known is None:
        some = ', '.join(map(shown, list(tensors)[:3]))
        codes = ' or '.join(code.title for code in third_party_codes().values())
        if recognised(tensors):
            return (
                f'{src} has names of tensors as in this package and in timm, but the shapes of no registered network; '
                "give the checkpoint of timm's train.py, which records the arguments, or save the model by "
                'timm.models.save_for_hf.'
            )
        return f'{src} is not a checkpoint of {codes}: its tensors are {some}, ...'
    if known.size is None:
        return f"{src} is {known.title}, which has blocks that no network of this package has; load it by timm's own."
    return f'{src} is {known.title} and needs no conversion: {known.call} loads it.'


def _filled(source: Source, src: str) -> nn.Module:
    """Give the model its tensors, in the precision of the model. No two tensors share memory."""
    model = source.model
    own = model.state_dict()
    _check_shapes(source, own)
    check_values(source.tensors, own, src, source.names)
    memory: set[int] = set()
    tensors = {}
    for key, tensor in source.tensors.items():
        tensor = tensor.detach().to(own[key].dtype).contiguous()
        place = tensor.untyped_storage().data_ptr()
        tensors[key] = tensor.clone() if place in memory else tensor
        memory.add(place)
    torch.nn.Module.load_state_dict(model, tensors, assign=True)
    return model


def _check_shapes(source: Source, own: Mapping[str, torch.Tensor]) -> None:
    tensors = source.tensors
    for key, expected in own.items():
        name = shown(source.names.get(key, key))
        if key not in tensors:
            raise CheckpointError(f'{source.what} lacks the tensor {name}.')
        if tensors[key].shape != expected.shape:
            raise CheckpointError(
                f'The tensor {name} of {source.what} has {tensors[key].numel()} values, but the network that '
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
        card = make_folder_card(shown(dst.name), config, _num_params(model))
        (folder / CARD).write_text(card, encoding='utf-8')
        mark(folder, config)

    try:
        write_folder(dst, save, check_dst)
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f'{shown(dst)} cannot be written: {getattr(e, "strerror", None) or e}.') from e
