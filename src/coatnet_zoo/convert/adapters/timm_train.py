"""Checkpoints that timm's train.py writes: the network is built again from the arguments that the script records."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg, is_model_in_modules
from torch import nn

from ...errors import shown
from ...registry import TIMM_NAMES, Channels, Side, check
from ..adapter import Checkpoint
from ..preprocessing import check_arguments, check_facts
from ..recognition import identify
from ..source import Source

# The script's names of arguments of the model.
_OF_MODEL = dict(num_classes='num_classes', global_pool='gp', drop_rate='drop', drop_path_rate='drop_path')
_STARTS = ('pretrained', 'pretrained_path', 'initial_checkpoint')


def trained_source(checkpoint: Checkpoint, head: bool) -> Source | None:
    """The network of a checkpoint that timm's train.py wrote; None if the script did not write it.

    The network starts from a registered name, from timm's own name of the same network, or from a folder or repository.

    Raises:
        ValueError: If the file records arguments of no network, or of a network that is not one of this package.
    """
    record = checkpoint.record
    if not record:
        return None
    start, arguments = _network(record)
    if (known := identify(checkpoint.tensors)) and 'img_size' in known.args:
        arguments.setdefault('img_size', known.args['img_size'])
    tensors = checkpoint.tensors
    if not head:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith('head.fc.')}
        arguments['num_classes'] = 0
    return Source(
        start,
        arguments,
        tensors,
        partial(_preprocessing, record),
        has_size=True,
        left_out=tuple(checkpoint.beside),
        is_assumed=False,
        is_tuned=any(isinstance(record.get(option), (bool, str)) and record[option] for option in _STARTS),
    )


def _network(record: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the arguments for `timm.create_model`, as train.py passes them."""
    arguments = {ours: record.get(theirs) for ours, theirs in _OF_MODEL.items()}
    in_chans, size = record.get('in_chans'), record.get('input_size')
    arguments['in_chans'] = in_chans if in_chans is not None else 3 if size is None else size[0]
    arguments = {k: v for k, v in arguments.items() if v is not None and not (k.startswith('drop') and v == 0)}
    arguments |= record.get('model_kwargs') or {}
    check_arguments(arguments)
    name = record['model']
    if theirs := TIMM_NAMES.get(name.partition('.')[0]):
        size, impl, fields = theirs
        return size, {'impl': impl, **fields, **arguments}
    is_elsewhere = name.startswith(('local-dir:', 'hf-hub:'))
    if not is_elsewhere and not is_model_in_modules(name.partition('.')[0], 'coatnet'):
        raise ValueError(
            f'it was trained as {shown(name)}, which is not a network of this package; see `coatnet-zoo list`'
        )
    return name, arguments


def _preprocessing(record: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """timm's data_config of the script's validation."""
    facts = {k: record[k] for k in ('mean', 'std', 'interpolation', 'crop_pct', 'img_size') if record.get(k)}
    check_facts(facts)
    if record.get('input_size'):
        check('input_size', record['input_size'], tuple[Channels, Side, Side])
        facts['input_size'] = record['input_size']
    name = record['model']
    cfg = get_pretrained_cfg(name).to_dict() if TIMM_NAMES.get(name.partition('.')[0]) else model.pretrained_cfg
    found = resolve_data_config({**facts, 'in_chans': model.in_chans}, pretrained_cfg=cfg)
    return {**found, 'input_size': (model.in_chans, *found['input_size'][1:])}
