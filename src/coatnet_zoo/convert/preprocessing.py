"""Checking what a file or a user states about a network: its arguments, preprocessing, labels and a name."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from ..errors import CheckpointError, shown
from ..registry import INTERPOLATIONS, Channels, Classes, Crop, Share, Side, check, field_types, short
from .reading import require_regular

# The arguments of a model beside its structure, with limits that a Python type hint cannot state.
ARGUMENTS = {
    'impl': str,
    'img_size': Side | tuple[Side, Side],
    'in_chans': Channels,
    'num_classes': Classes,
    'global_pool': Literal['', 'avg', 'max', 'avgmax', 'catavgmax', 'fast', 'fastavg', 'fastmax', 'fastavgmax'],
    **dict.fromkeys(('drop_rate', 'drop_path_rate', 'attn_drop_rate', 'proj_drop_rate'), Share),
}
# Bytes: about 100 for each of 100,000 classes.
_LARGEST_LABELS = 10_000_000
# The type of every fact. Evaluation enlarges an image by the inverse of crop_pct, and crops it afterwards.
_FACTS: dict[str, Any] = {
    'mean': tuple[Annotated[float, 'a number in [0, 1]; divide values in [0, 255] by 255', 0, 1], ...],
    'std': tuple[Annotated[float, 'a number in [0.001, 1]', 1e-3, 1], ...],
    'crop_pct': Crop,
    'interpolation': Literal[INTERPOLATIONS],
    'img_size': Side | tuple[Side, Side],
    'input_size': tuple[Channels, Side, Side],
    'name': str,
    'labels': tuple[str, ...],
}
# Half a surrogate pair is not a character, and cannot be written.
_UNWRITABLE = re.compile('[\0\r\n\ud800-\udfff]')


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for an argument from a file that is not one of a network, or has a value of another type."""
    check_fields('model_args', arguments, {**field_types(), **ARGUMENTS})


def check_fields(what: str, values: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name not in types:
            raise ValueError(f'{what} has the field {short(name)}, which does not exist.')
        check(name, value, types[name])


def check_facts(facts: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for a fact that no checkpoint can have. See `convert_checkpoint`; None is no fact."""
    for name, value in facts.items():
        if value is not None:
            check(name, value, _FACTS[name])
            if name == 'name' and not (value.isprintable() and value.strip() and len(value) <= 200):
                raise ValueError(f'name={short(value)} must be up to 200 printable characters.')


def read_labels(file: str | os.PathLike) -> list[str]:
    """Read the lines of a text file: one label per class, in UTF-8. Empty lines at the end do not count.

    Raises:
        CheckpointError: If the file is not a regular file, is larger than 10 MB, cannot be read, or is not UTF-8.
    """
    path = require_regular(file)
    if path.stat().st_size > _LARGEST_LABELS:
        raise CheckpointError(f'{shown(file)} is larger than 10 MB; give a text file with one label per line.')
    try:
        text = path.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError as e:
        raise CheckpointError(f'{shown(file)} is not UTF-8 (byte {e.start}); save it as UTF-8.') from e
    except OSError as e:
        raise CheckpointError(f'{shown(file)} cannot be read: {e.strerror}.') from e
    return text.replace('\r\n', '\n').rstrip('\n').split('\n')


def label_list(names: Any, count: int | None = None) -> list[str] | None:
    """The `label_names` of a pretrained configuration: a list, or names by class, of `count` classes; else None."""
    if isinstance(names, Mapping):  # keys are class numbers, which JSON writes as text
        names = [names.get(str(i), names.get(i)) for i in range(len(names) if count is None else count)]
    is_list = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    return list(names) if is_list else None


def check_labels(labels: Sequence[str], num_classes: int) -> None:
    """Raise a `CheckpointError` for labels that are not one line of text a class."""
    for number, label in enumerate(labels, start=1):
        if not label.strip() or _UNWRITABLE.search(label):
            raise CheckpointError(f'Label {number} is {short(label)}; give every class one line of text.')
    if len(labels) != num_classes:
        raise CheckpointError(f'{len(labels)} labels were given, but the checkpoint has {num_classes} classes.')


def average(values: Sequence[float], in_chans: int) -> tuple[float, ...]:
    """The mean or std of images with other channels than the values are for."""
    return (round(sum(values) / len(values), 3),) * in_chans


def data_config(
    default: Mapping[str, Any], in_chans: int, facts: Mapping[str, Any], made_chans: int | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make timm's data_config of facts, and of a default where there is no fact. Also return the part of the default.

    Facts may be for the channels that the network in the file takes, or for `made_chans` that are made of them.

    Raises:
        CheckpointError: If the number of values is neither one nor the number of channels.
    """
    given = {name: value for name, value in facts.items() if value is not None}
    rest = {name: value for name, value in default.items() if name not in given}
    for name in ('mean', 'std'):
        values = given.get(name, rest.get(name))
        if len(values) in (1, in_chans) or (name in given and len(values) == made_chans):
            continue
        if name in given:
            channels = f'{in_chans} channel{"s" * (in_chans != 1)}'
            raise CheckpointError(f'{name} has {len(values)} values, but the checkpoint takes images of {channels}.')
        # timm also takes the average if an image does not have that many channels.
        rest[name] = average(values, in_chans)
    return {**rest, **given}, {name: value for name, value in rest.items() if name in facts}
