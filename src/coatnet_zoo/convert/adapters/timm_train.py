"""Checkpoints that timm's train.py writes: the network is built again from the arguments that the script records."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg, is_model_in_modules
from torch import nn

from ...errors import CheckpointError, HubError, first_line, shown
from ...files import CONFIG
from ...registry import TIMM_NAMES, Channels, Side, check
from ..arguments import check_arguments
from ..checkpoint import Checkpoint
from ..files import require_regular
from ..loading import adapt_checked
from ..preprocessing import check_said
from ..recognition import identify
from ..source import CLASSIFIER, Source, forget_origin, structure_of

_FOLDER = 'local-dir:'
# The script's names of arguments of the model.
_OF_MODEL = dict(num_classes='num_classes', global_pool='gp', drop_rate='drop', drop_path_rate='drop_path')
_STARTS = ('pretrained', 'pretrained_path', 'initial_checkpoint')


def trained_source(checkpoint: Checkpoint, src: str, head: bool, img_size: int | None) -> Source | None:
    """The network of a checkpoint that timm's train.py wrote; None if the script did not write it.

    The network starts from a registered name, from timm's own name of the same network, or from a folder or repository.

    Args:
        checkpoint: The checkpoint.
        src: The file in messages.
        head: Keep the classifier.
        img_size: Must be None, or the size that the file records.

    Raises:
        CheckpointError: If the arguments that the file records make no network, or another network than its tensors.
        HubError: If the network starts from a repository whose configuration cannot be fetched.
    """
    record = checkpoint.record
    if not record:
        return None
    try:
        start, arguments = _network(record, checkpoint, src)
        model = timm.create_model(start, **arguments, device='meta')
        preprocessing = _preprocessing(record, model)
        tensors = _fitting(checkpoint.tensors, model, src)
        if not head:
            tensors = {k: v for k, v in tensors.items() if not k.startswith(CLASSIFIER)}
            arguments['num_classes'] = 0
            model = timm.create_model(start, **arguments, device='meta')
    except (CheckpointError, HubError):
        raise
    except Exception as e:  # timm raises many kinds for bad arguments
        raise CheckpointError(
            f'{src} records arguments of train.py that do not fit: {shown(first_line(e), 500)}'
        ) from e
    if img_size is not None and preprocessing['input_size'][1:] != (img_size, img_size):
        raise CheckpointError(
            f'img_size={img_size} was given, but {src} records {preprocessing["input_size"][1:]}; leave img_size out.'
        )
    if not any(isinstance(start := record.get(option), (bool, str)) and start for option in _STARTS):
        forget_origin(model)
    # The classes may be others, even if there are as many.
    for name in ('tag', 'label_names', 'label_descriptions'):
        model.pretrained_cfg.pop(name, None)
    return Source(
        start,
        arguments,
        model,
        tensors,
        structure_of(model),
        preprocessing,
        src,
        assumes=False,
        left_out=tuple(checkpoint.beside),
    )


def _network(record: Mapping[str, Any], checkpoint: Checkpoint, src: str) -> tuple[str, dict[str, Any]]:
    """The name and the arguments for `timm.create_model`, as train.py passes them."""
    given = record.get('model_kwargs') or {}
    if not isinstance(given, Mapping):
        raise ValueError(f'model_kwargs is a {type(given).__name__}.')
    arguments = {ours: record.get(theirs) for ours, theirs in _OF_MODEL.items()}
    arguments['in_chans'] = _channels(record)
    arguments = {k: v for k, v in arguments.items() if v is not None and not (k.startswith('drop') and v == 0)}
    arguments |= given
    check_arguments(arguments)
    name = record['model']
    theirs = timms_name(name)
    if theirs is not None:
        size, impl, fields = TIMM_NAMES[theirs]
        return size, {'impl': impl, **fields, **arguments}
    if name.startswith(_FOLDER):
        folder = name.removeprefix(_FOLDER)
        try:
            require_regular(Path(folder) / CONFIG)
        except CheckpointError as e:
            known = identify(checkpoint.tensors)
            if known is None or known.size is None:
                raise CheckpointError(
                    f'{src} was trained from the folder {shown(folder)}, whose {CONFIG} describes the network, but '
                    'there is no such file here; put the folder there again.'
                ) from e
            return known.size, {**known.args, 'impl': known.impl, **arguments}
    elif not name.startswith('hf-hub:') and not is_model_in_modules(name.partition('.')[0], 'coatnet'):
        raise CheckpointError(
            f'{src} was trained as {shown(name)}, which is not a network of this package; see `coatnet-zoo list`.'
        )
    return name, arguments


def timms_name(name: str) -> str | None:
    """timm's own name of a network that this package has, without the tag; None if it is no such name."""
    theirs = name.partition('.')[0]
    return theirs if TIMM_NAMES.get(theirs) is not None else None


def _channels(record: Mapping[str, Any]) -> int:
    size = record.get('input_size')
    channels = record.get('in_chans')
    if channels is None:
        channels = 3 if size is None else size[0]
    check('in_chans', channels, Channels)
    return channels


def _preprocessing(record: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """timm's data_config of the script's validation."""
    wanted = ('mean', 'std', 'interpolation', 'crop_pct', 'img_size', 'input_size')
    said = {name: record[name] for name in wanted if record.get(name)}
    checked = {name: said.get(name) for name in wanted[:5]}
    try:
        check_said(**checked, labels=None, name=None)
    except CheckpointError as e:
        raise ValueError(str(e)) from e
    if 'input_size' in said:
        check('input_size', said['input_size'], tuple[Channels, Side, Side])
    name = record['model']
    cfg = get_pretrained_cfg(name).to_dict() if timms_name(name) else model.pretrained_cfg
    found = resolve_data_config({**said, 'in_chans': model.in_chans}, pretrained_cfg=cfg)
    return {**found, 'input_size': (model.in_chans, *found['input_size'][1:])}


def _fitting(tensors: Mapping[str, torch.Tensor], model: nn.Module, src: str) -> dict[str, torch.Tensor]:
    """The tensors in the layout of the model, if every tensor belongs to the model."""
    own = model.state_dict()
    for name in {**own, **tensors}:
        ours, theirs = (tuple(found[name].shape) if name in found else None for found in (own, tensors))
        if ours is None or theirs is None:
            raise CheckpointError(
                f'{src} {"lacks" if theirs is None else "has"} the tensor {shown(name)}, unlike the network of the '
                f'arguments that it records (model={shown(repr(model.pretrained_cfg["architecture"]))}).'
            )
        if own[name].numel() != tensors[name].numel():
            raise CheckpointError(
                f'The tensor {shown(name)} of {src} has shape {theirs}, but the network of the arguments that it '
                f'records needs {ours}.'
            )
    return adapt_checked(tensors, model, model.img_size)
