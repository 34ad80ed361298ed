"""Checking the arguments of a model that a file records."""

from collections.abc import Mapping
from typing import Any, Literal

from ..registry import Channels, Classes, Share, Side, check, field_types, short

# The arguments of a model beside its structure, with limits that a Python type hint cannot state.
_ARGUMENTS = {
    'impl': str,
    'img_size': Side | tuple[Side, Side],
    'in_chans': Channels,
    'num_classes': Classes,
    'global_pool': Literal['', 'avg', 'max', 'avgmax', 'catavgmax', 'fast', 'fastavg', 'fastmax', 'fastavgmax'],
    **dict.fromkeys(('drop_rate', 'drop_path_rate', 'attn_drop_rate', 'proj_drop_rate'), Share),
}


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for an argument from a file that is not one of a network, or has a value of another type."""
    check_fields('model_args', arguments, _ARGUMENTS, {*_ARGUMENTS, *field_types()})


def check_fields(what: str, values: Mapping[str, Any], types: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f'{what} has the field {short(unknown[0])}, which does not exist.')
    for name in values.keys() & types.keys():
        check(name, values[name], types[name])
