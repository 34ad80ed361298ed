"""Checking what a `config.json` says of a network, before anything is built from it.

timm reads the `config.json` of `local-dir:` and `hf-hub:` models and hands on its content.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

from timm.models import PretrainedCfg

from ..errors import CheckpointError
from ..network import CoAtNet
from ..tables import Count, check, field_types, list_impls, resolve_cfg

_Numbers = tuple[float, ...]
# The fields of a pretrained configuration that are used, with their types.
_PRETRAINED_FIELDS = {
    'input_size': tuple[Count, Count, Count],
    'num_classes': int,
    'mean': _Numbers,
    'std': _Numbers,
    'crop_pct': float,
    'interpolation': str,
    'first_conv': str | None,
    'classifier': str | None,
    'tag': str | None,
}
# What timm's builder takes beside the arguments of the model.
_BUILDER_ARGUMENTS = {'features_only': bool, 'out_indices': tuple[int, ...]}


def check_config_json(size: str, pretrained_cfg: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Refuse a `config.json` that does not describe a network of this package.

    Args:
        size: Registered name without tag.
        pretrained_cfg: The pretrained configuration that timm read.
        arguments: The arguments of the model that timm read.

    Raises:
        CheckpointError: With the place of the file and the field that does not fit.
    """
    is_folder = pretrained_cfg['source'] == 'local-dir'
    where = pretrained_cfg.get('file') if is_folder else pretrained_cfg.get('hf_hub_id')
    try:
        known = {field.name for field in dataclasses.fields(PretrainedCfg)}
        _check_fields('pretrained_cfg', pretrained_cfg, _PRETRAINED_FIELDS, known)
        types = _argument_types()
        _check_fields('model_args', arguments, types, {*types, *field_types()})
        fields = {name: value for name, value in arguments.items() if name in field_types() and name != 'impl'}
        resolve_cfg(size, arguments.get('impl') or list_impls(size)[0], **fields)
    except ValueError as e:
        raise CheckpointError(f'{size} cannot be built from the config.json of {where}: {e}') from e


def _argument_types() -> dict[str, Any]:
    parameters = inspect.signature(CoAtNet.__init__).parameters
    hints = get_type_hints(CoAtNet.__init__, include_extras=True)
    own = {name: hints[name] for name in parameters if name in hints and name != 'cfg'}
    return {**own, **_BUILDER_ARGUMENTS}


def _check_fields(what: str, values: Mapping[str, Any], types: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f'{what} has the field {unknown[0]!r}, which does not exist.')
    for name in values.keys() & types.keys():
        check(name, values[name], types[name])
