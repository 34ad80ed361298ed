"""Converting checkpoint files into folders that timm loads, locally or from the Hugging Face Hub."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import to_2tuple
from torch import nn

from ..errors import CheckpointError, HubError, first_line, is_utf8, shown
from ..files import CARD, CONFIG, SAFETENSORS, write_folder
from ..hub import one_line_error, save_folder
from ..registry import short
from .adapter import Checkpoint, Structure, recognised, third_party_codes
from .adapters.timm_train import trained_source
from .compare import check_pair, check_same
from .folders import is_folder, read_folder, weights_in
from .loading import Adapted, as_linear
from .preprocessing import check_facts, check_labels, data_config
from .reading import read_checkpoint
from .source import Source, own_source, translate
from .state_dicts import find_network
from .values import check_shapes, check_values

_log = logging.getLogger(__name__)

_FIRST = 'stem.conv1.weight'
# The fields of a pretrained configuration that hold for other classes, and only for the published weights of a name.
_CLASSES = ('tag', 'label_names', 'label_descriptions')
_ORIGIN = (
    *('license', 'origin_url', 'description', 'paper_ids', 'paper_name', 'notes'),
    *('url', 'file', 'hf_hub_id', 'hf_hub_filename', 'source'),
)


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion."""

    folder: Path  # for `timm.create_model('local-dir:...')`
    size: str  # the registered name that the configuration builds on
    structure: Structure
    num_params: int
    assumed: dict[str, Any]  # preprocessing that is neither an argument nor in the file, by name
    left_out: tuple[str, ...] = ()  # the names of the tensors in the file that do not belong to the network
    assumed_network: str = ''  # what the tensors of third-party code do not show, as text
    others: tuple[str, ...] = ()  # the keys and prefixes of other networks in the file, such as a moving average


def convert_checkpoint(
    src: str | os.PathLike | Checkpoint, dst: str | os.PathLike, *, ema: bool = False, key: str | None = None,
    prefix: str | None = None, head: bool = True, in_chans: int | None = None,
    img_size: int | tuple[int, int] | None = None, mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None, interpolation: str | None = None, crop_pct: float | None = None,
    labels: Sequence[str] | None = None, name: str | None = None, overwrite: bool = False,
    compare: Callable[[], nn.Module] | None = None, check: str | os.PathLike | None = None,
) -> Conversion:  # fmt: skip
    """Convert a checkpoint file into a folder for timm.

    The file is a checkpoint of chinhsuanwu/coatnet-pytorch, of keras_cv_attention_models or of timm's train.py, or a
    state dict of a registered network, of this package or timm. The folder gets `model.safetensors`, `config.json` and
    `README.md`, so that `timm.create_model('local-dir:DST', pretrained=True)` gives the logits of the original model,
    and so does `hf-hub:` once the folder is pushed to the Hub. A new folder appears complete or not at all.

    Args:
        src: A `.pth`, `.pt`, `.tar`, `.bin` or `.safetensors` file with the state dict, wrapped or not; a `.h5` file of
            Keras, the whole model or weights only; a folder or `hf-hub:ORG/NAME` with one of timm's CoAtNets; or what
            was read from one of these.
        dst: Folder to write. Without `overwrite`, the folder must not exist. Missing parents are made.
        ema: Take the moving average that the checkpoint has in addition to the weights.
        key: The key of the state dict in the file. Default: a usual key, or the only key with a state dict.
        prefix: The prefix of the names of the network. Default: the only prefix with a known network.
        head: Keep the classifier. Without it, the folder is a starting point for fine-tuning.
        in_chans: 3 expands one channel to three: the same logits for grey images with three equal channels.
        img_size: Height and width of the training images in pixels, or one number for both; for files that do not show
            it, as position tables of square images do. Default: that of the registered network, see `assumed`.
        mean: Mean of the training images per channel, in [0, 1]. Default: what train.py recorded, what the registered
            network has, or ImageNet's for third-party code.
        std: Standard deviation of the training images per channel, in [0.001, 1]. Default: as for the mean.
        interpolation: One of `INTERPOLATIONS`. Default: as for the mean; bicubic for third-party code.
        crop_pct: Share of the resized image that evaluation crops, in [0.1, 1]. Default: as for the mean; 0.875 for
            chinhsuanwu, 0.95 for keras_cv.
        labels: Names of the classes, one per class.
        name: Name of the weights, recorded as the configuration's tag.
        overwrite: Write into `dst` if it is empty or has only files of these three names, which are replaced.
        compare: A function that builds the network of the code that trained it. The checkpoint is loaded into it, and
            both must compute the same logits, see `convert_module`.
        check: A file with `images` and the `logits` that the code that trained it computes, by `torch.save`.

    Raises:
        CheckpointError: If the checkpoint is damaged, pickled, incomplete, or not supported; if an argument does not
            fit the checkpoint; if the folder cannot be written; or if h5py is missing for a `.h5` file.
        HubError: If train.py started from a repository on the Hub whose configuration cannot be fetched.
    """
    dst = Path(dst)
    _check_destination(src, dst, overwrite)
    if not head and (compare is not None or check is not None):
        raise CheckpointError('Without a classifier there are no logits to compare; leave out head=False (--no-head).')
    facts = dict(mean=mean, std=std, interpolation=interpolation, crop_pct=crop_pct)
    file = 'The checkpoint' if isinstance(src, Checkpoint) else shown(src, 500)
    with one_line_error(CheckpointError, f'{file} cannot be converted'):
        check_facts({**facts, 'img_size': img_size, 'name': name, 'labels': labels})
    if isinstance(src, Checkpoint):
        checkpoint = src
    elif is_folder(str(src)):
        try:
            checkpoint = read_folder(f'local-dir:{src}' if Path(src).is_dir() else str(src), ema)
        except (CheckpointError, HubError):
            raise
        except Exception as e:  # timm raises many kinds for a bad file
            inside = weights_in(str(src).removeprefix('local-dir:'))
            way = f'; convert the file in it: coatnet-zoo convert {shown(inside, 500)} DST' if inside else ''
            raise CheckpointError(f'{file} has no {CONFIG} of timm ({shown(first_line(e))}){way}.') from e
        if checkpoint is None:
            raise CheckpointError(f'{file} needs no conversion: timm.create_model(..., pretrained=True) loads it.')
    else:
        checkpoint = read_checkpoint(src, ema, key, prefix)
    if labels is None and head:
        labels = checkpoint.labels
    source, model, default = build_network(checkpoint, file, head, img_size)
    preprocessing, assumed = data_config(default, model.in_chans, facts, in_chans)
    if labels is not None:
        check_labels(labels, model.num_classes)
    tensors = _fitting(source, model, file)
    model.load_state_dict(Adapted(tensors))
    if compare is not None:
        check_same(_loaded(compare, checkpoint), model.eval(), None, source.names)
    if check is not None:
        check_pair(model, check)
    if in_chans not in (None, model.in_chans):
        tensors[_FIRST] = _three_channels(tensors[_FIRST], in_chans)
        model = timm.create_model(source.name, **{**source.arguments, 'in_chans': 3}, device='meta')
        model.load_state_dict(Adapted(tensors))
        preprocessing |= {name: tuple(v) * (3 // len(v)) for name in ('mean', 'std') for v in [preprocessing[name]]}
    unknown = (*_CLASSES, *(() if source.is_tuned else _ORIGIN))
    model.pretrained_cfg = {name: value for name, value in model.pretrained_cfg.items() if name not in unknown}
    if checkpoint.license:
        model.pretrained_cfg['license'] = checkpoint.license
    size = preprocessing.get('input_size', (None, *model.img_size))[1:]
    if img_size is not None and size != to_2tuple(img_size):
        if model.cfg.attention_maps(size) != model.cfg.attention_maps(to_2tuple(img_size)):
            raise CheckpointError(f'img_size={img_size}, but the checkpoint was trained at {size}; leave img_size out.')
        size = to_2tuple(img_size)  # position tables are the same for several sizes
    if size != model.img_size:
        with one_line_error(CheckpointError, f'{file} was trained at {size}, which its network cannot keep'):
            model.set_input_size(size)
    preprocessing['input_size'] = (model.in_chans, *size)
    if img_size is None and not source.has_size:
        assumed['img_size'] = size
    num_params = sum(p.numel() for p in model.parameters())
    model_config: dict[str, Any] = dict(pretrained_cfg=dict(tag=name)) if name is not None else {}
    if labels is not None:
        model_config['label_names'] = list(labels)

    def write(folder: Path) -> None:
        save_folder(model, folder, shown(dst.name), model_config, preprocessing)

    _log.info('writing %s', dst)
    with one_line_error(CheckpointError, f'{shown(dst)} cannot be written'):
        write_folder(dst, write, lambda _: _check_destination(src, dst, overwrite))
    structure = Structure(
        **{field: getattr(model.cfg, field) for field in Structure.OF_CFG},
        **{field: getattr(model, field) for field in ('in_chans', 'num_classes', 'img_size')},
    )
    known = assumed if source.is_assumed else {}
    notes = dict(left_out=source.left_out, assumed_network=source.assumed_network, others=checkpoint.others)
    return Conversion(dst, source.name, structure, num_params, known, **notes)


def convert_module(
    module: nn.Module, dst: str | os.PathLike | None = None, *, images: torch.Tensor | None = None, **options: Any
) -> nn.Module | Conversion:
    """Convert a network in memory, if the converted network computes the same logits.

    Args:
        module: A network of chinhsuanwu/coatnet-pytorch, a fork of it, or timm; wrapped or not. It does not change.
        dst: Folder to write, see `convert_checkpoint`. Default: no folder.
        images: Images to compare the networks on, (B, C, H, W). Default: noise of the size of the network.
        **options: The arguments of `convert_checkpoint` for the folder.

    Returns:
        The `CoAtNet` in evaluation mode; with `dst`, the `Conversion`.

    Raises:
        CheckpointError: If the tensors are not those of a known network, or if logits differ by more than 1e-10 of the
            largest logit in float64 (1e-5 in float32, where the module cannot compute in float64). The message names
            the first place that differs.
    """
    checkpoint = find_network(module.state_dict(), name='The module')
    source, model, _ = build_network(checkpoint, 'the module', True, options.get('img_size'))
    model = timm.create_model(source.name, **source.arguments).eval()
    model.load_state_dict(source.tensors)
    check_same(module, model, images, source.names)
    if dst is None:
        return model
    return convert_checkpoint(checkpoint, dst, **options)


def _check_destination(src: str | os.PathLike | Checkpoint, dst: Path, overwrite: bool) -> None:
    """Refuse a place to which a conversion may not write."""
    if dst.name in ('', '..'):
        raise CheckpointError(f"'{shown(dst)}' is not the name of a new folder; give one.")
    if not is_utf8(dst):
        raise CheckpointError(f'{shown(dst)} is not UTF-8, so safetensors cannot open files there; rename it.')
    with one_line_error(CheckpointError, f'{shown(dst)} cannot be written'), suppress(FileNotFoundError):
        dst.lstat()
        if not overwrite:
            raise CheckpointError(f'{shown(dst)} already exists; choose another folder or use overwrite (--overwrite).')
        place = None if isinstance(src, Checkpoint) else Path(str(src).removeprefix('local-dir:')).resolve()
        if place and place.is_relative_to(dst.resolve()):
            raise CheckpointError(f'{shown(src)} is inside {shown(dst)}, which would be replaced; choose another DST.')
        is_folder = dst.is_dir() and not dst.is_symlink()
        problem = None if is_folder else 'is not a folder'
        for file in os.scandir(dst) if is_folder else ():
            if file.name not in (SAFETENSORS, CONFIG, CARD) or not file.is_file(follow_symlinks=False):
                problem = f'has {shown(file.name)}, which no conversion wrote'
        if problem:
            raise CheckpointError(f'{shown(dst)} {problem}, so it is not overwritten; choose another folder.')


def _loaded(build: Callable[[], nn.Module], checkpoint: Checkpoint) -> nn.Module:
    """The network of another codebase with the tensors of a checkpoint."""
    with one_line_error(CheckpointError, 'The code to compare with does not load the checkpoint'):
        network = build()
        # The code may build the network or its wrapper.
        own, every = network.state_dict(), {**checkpoint.beside, **checkpoint.tensors}
        every |= {f'{checkpoint.prefix}{name}': tensor for name, tensor in checkpoint.tensors.items()}
        network.load_state_dict({name: tensor for name, tensor in every.items() if name in own})
        return network


def _not_convertible(src: str, tensors: Mapping[str, torch.Tensor]) -> str:
    if recognised(tensors):
        return (
            f'{src} has the tensor names of this package or timm, but the shapes of no registered network; give '
            "the checkpoint of timm's train.py, or save the model with timm.models.save_for_hf and convert that folder."
        )
    codes = ' or '.join(code.title for code in third_party_codes().values())
    return f'{src} is not a checkpoint of {codes}: its tensors are {", ".join(map(shown, list(tensors)[:3]))}, ...'


def build_network(
    checkpoint: Checkpoint, src: str, head: bool, img_size: int | tuple[int, int] | None
) -> tuple[Source, nn.Module, dict[str, Any]]:
    """The source of a checkpoint, its network on the meta device, and timm's data_config of the network."""
    with one_line_error(CheckpointError, f'The network of {src} cannot be built'):
        finders = (translate, trained_source, own_source)
        source = next(filter(None, (find(checkpoint, head) for find in finders)), None)
        if source is None:
            raise CheckpointError(_not_convertible(src, checkpoint.tensors))
        if img_size is not None and not source.has_size:
            source = replace(source, arguments={**source.arguments, 'img_size': img_size})
        model = timm.create_model(source.name, **source.arguments, device='meta')
        return source, model, source.preprocessing(model)


def _fitting(source: Source, model: nn.Module, src: str) -> dict[str, torch.Tensor]:
    """The tensors of the network, if they are those of the model, with values that a model has."""
    own = model.state_dict()
    tensors = {name: as_linear(tensor, own.get(name)) for name, tensor in source.tensors.items()}
    check_shapes(tensors, {name: tuple(tensor.shape) for name, tensor in own.items()}, src, source.names)
    check_values(tensors, own, src, source.names)
    # safetensors takes only contiguous tensors that share no memory.
    memory: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        place = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if place in memory else tensor
        memory.add(place)
    return tensors


def _three_channels(kernel: torch.Tensor, in_chans: int) -> torch.Tensor:
    """The kernel for images of three channels that gives the same outputs for grey images."""
    if (kernel.shape[1], in_chans) != (1, 3):
        raise CheckpointError(
            f'in_chans={short(in_chans)} is not possible for a checkpoint of in_chans={kernel.shape[1]}; only one '
            'channel can be expanded, to three.'
        )
    return kernel.repeat(1, 3, 1, 1) / 3
