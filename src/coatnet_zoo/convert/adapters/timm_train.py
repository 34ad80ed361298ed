"""Checkpoints that timm's train.py writes: the network is built again from the arguments that the script records."""

import re
from collections.abc import Mapping
from typing import Any

from timm.data import resolve_data_config
from timm.models import is_model_in_modules
from torch import nn

from ...errors import shown
from ...registry import TIMM_NAMES
from ..adapter import Checkpoint
from ..folders import describe
from ..preprocessing import check_arguments, check_facts
from ..recognition import square_size
from ..source import Source

# The script's names of arguments of the model.
_OF_MODEL = dict(num_classes='num_classes', global_pool='gp', drop_rate='drop', drop_path_rate='drop_path')
_FACTS = ('mean', 'std', 'interpolation', 'crop_pct', 'img_size', 'input_size')
_STARTS = ('pretrained', 'pretrained_path', 'initial_checkpoint')


def trained_source(checkpoint: Checkpoint, head: bool) -> Source | None:
    """The network of a checkpoint that timm's train.py wrote; None if the script did not write it.

    The network starts from a registered name, from timm's own name of the same network, or from a folder or repository.

    Raises:
        ValueError: If the file records arguments of no network, or of a network that is not one of this package.
    """
    record, tensors = checkpoint.record, checkpoint.tensors
    if not record:
        return None
    facts = {name: record[name] for name in _FACTS if record.get(name)}
    check_facts(facts)
    start, arguments, cfg = _network(record)
    if cfg is not None:  # timm builds its own for one size of images
        sizes = (facts.get('input_size', ())[1:], facts.get('img_size'), square_size(tensors), cfg['input_size'][1:])
        arguments.setdefault('img_size', next(filter(None, sizes)))
    if not head:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith('head.fc.')}
        arguments['num_classes'] = 0

    def preprocessing(model: nn.Module) -> dict[str, Any]:
        """timm's data_config of the script's validation."""
        given = {**facts, 'in_chans': model.in_chans}
        if 'img_size' in arguments:
            given['input_size'] = (model.in_chans, *model.img_size)
        found = resolve_data_config(given, pretrained_cfg=cfg or model.pretrained_cfg)
        return {**found, 'input_size': (model.in_chans, *found['input_size'][1:])}

    has_start = any(isinstance(record.get(one), (bool, str)) and record[one] for one in _STARTS)
    is_published = (cfg or {}).get('source') != 'local-dir'
    return Source(
        start, arguments, tensors, preprocessing, has_size=True, left_out=tuple(checkpoint.beside), is_assumed=False,
        is_tuned=has_start and is_published,
    )  # fmt: skip


def _network(record: Mapping[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    """The name and the arguments for `timm.create_model`, as train.py passes them, and timm's configuration, if its."""
    arguments = {ours: record.get(theirs) for ours, theirs in _OF_MODEL.items()}
    in_chans, size = record.get('in_chans'), record.get('input_size')
    arguments['in_chans'] = in_chans if in_chans is not None else 3 if size is None else size[0]
    arguments = {k: v for k, v in arguments.items() if v is not None and not (k.startswith('drop') and v == 0)}
    arguments |= record.get('model_kwargs') or {}
    check_arguments(arguments)
    name = re.sub('^(hf[-_]hub:)?timm/', '', record['model'])
    architecture, cfg, saved = describe(name)
    if theirs := TIMM_NAMES.get(architecture):
        check_arguments(saved)
        check_facts({fact: cfg.get(fact) for fact in _FACTS})
        size, impl, fields = theirs
        return size, {'impl': impl, **fields, 'num_classes': cfg['num_classes'], **saved, **arguments}, cfg
    if not is_model_in_modules(architecture, 'coatnet'):
        raise ValueError(
            f'it was trained as {shown(name)}, which is not a network of this package; see `coatnet-zoo list`'
        )
    return name, arguments, None
