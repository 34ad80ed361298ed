"""Checking the facts that a user gives, because a checkpoint has none of them: preprocessing, labels and a name."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import CheckpointError, shown
from ..files import open_regular
from ..registry import INTERPOLATIONS, Side, check, short

# Bytes: about 100 for each of 100,000 classes.
_LARGEST_LABELS = 10_000_000
_LONGEST_NAME = 200
_SAID = ('mean', 'std', 'interpolation', 'crop_pct')
# Evaluation enlarges an image by the inverse, and crops it afterwards.
_SMALLEST_CROP = 0.1


def read_labels(file: str | os.PathLike) -> list[str]:
    """Read the lines of a text file: one label per class.

    Lines end with a line feed, or a carriage return and a line feed.

    Args:
        file: A text file in UTF-8, with or without a byte order mark. Empty lines at the end do not count.

    Raises:
        CheckpointError: If the file is not a regular file, is larger than 10 MB, cannot be read, or is not UTF-8.
    """
    try:
        with open_regular(file) as opened:
            content = opened.read(_LARGEST_LABELS + 1)
        if len(content) > _LARGEST_LABELS:
            raise CheckpointError(
                f'{shown(file)} has more than {_LARGEST_LABELS // 10**6} MB, so it is no list of labels; give a text '
                'file with one label a line.'
            )
        text = content.decode('utf-8-sig')
    except UnicodeDecodeError as e:
        raise CheckpointError(f'{shown(file)} is not UTF-8 (byte {e.start}); save it as UTF-8.') from e
    except (OSError, ValueError) as e:
        raise CheckpointError(f'{shown(file)} cannot be read: {getattr(e, "strerror", None) or e}.') from e
    return text.replace('\r\n', '\n').rstrip('\n').split('\n')


def check_said(
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    interpolation: str | None,
    crop_pct: float | None,
    img_size: int | None,
    labels: Sequence[str] | None,
    name: str | None,
) -> None:
    """Raise a `CheckpointError` for a value that no checkpoint can have. See `convert_checkpoint`."""
    said = dict(
        mean=(mean, tuple[float, ...]),
        std=(std, tuple[float, ...]),
        interpolation=(interpolation, str),
        crop_pct=(crop_pct, float),
        img_size=(img_size, Side),
        name=(name, str),
    )
    try:
        for what, (value, hint) in said.items():
            if value is not None:
                check(what, value, hint)
    except ValueError as e:
        raise CheckpointError(str(e)) from e
    if mean is not None and not all(0 <= value <= 1 for value in mean):
        raise CheckpointError(f'mean must lie in [0, 1], got {short(mean)}; divide by 255 what is in [0, 255].')
    if std is not None and not all(1e-3 <= value <= 1 for value in std):
        raise CheckpointError(f'std must be positive, in [0.001, 1], got {short(std)}.')
    if crop_pct is not None and not _SMALLEST_CROP <= crop_pct <= 1:
        raise CheckpointError(f'crop_pct must lie in (0, 1], got {crop_pct}, and be at least {_SMALLEST_CROP}.')
    if interpolation is not None and interpolation not in INTERPOLATIONS:
        raise CheckpointError(
            f'interpolation {short(interpolation)} does not exist; choose {", ".join(INTERPOLATIONS)}.'
        )
    if name is not None and not (name.isprintable() and name.strip() and len(name) <= _LONGEST_NAME):
        raise CheckpointError(
            f'name={short(name)} must be up to {_LONGEST_NAME} characters that can be printed; choose another name.'
        )
    if labels is not None:
        _check_labels(labels)


def _check_labels(labels: Sequence[str]) -> None:
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise CheckpointError(f'labels={short(labels)} must be a list with one text a class.')
    for number, label in enumerate(labels, start=1):
        if not isinstance(label, str) or not label.strip():
            raise CheckpointError(f'Label {number} is {short(label)}; give every class a text that is not empty.')
        # Half a surrogate pair is not a character, and cannot be written.
        broken = next((c for c in label if c in '\0\r\n' or '\ud800' <= c <= '\udfff'), None)
        if broken is not None:
            raise CheckpointError(f'Label {number}, {short(label)}, has the character {broken!r}; remove it.')


def data_config(
    default: Mapping[str, Any],
    in_chans: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    interpolation: str | None,
    crop_pct: float | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make timm's data_config from values that `check_said` accepts. Also return the part that comes from the default.

    Args:
        default: The data_config to complete the values.
        in_chans: Channels of the images.
        mean: See `convert_checkpoint`, as for the other arguments.
        std: See above.
        interpolation: See above.
        crop_pct: See above.

    Raises:
        CheckpointError: If the number of values is neither one nor the number of channels.
    """

    def per_channel(values: Sequence[float]) -> tuple[float, ...]:
        # timm also takes the average if an image does not have that many channels.
        fits = len(values) in (1, in_chans)
        return tuple(values) if fits else (round(sum(values) / len(values), 3),) * in_chans

    for what, values in (('mean', mean), ('std', std)):
        if values is not None and len(values) not in (1, in_chans):
            raise CheckpointError(
                f'{what} has {len(values)} values, but the checkpoint takes images of {in_chans} channels.'
            )
    said = dict(mean=mean, std=std, interpolation=interpolation, crop_pct=crop_pct)
    said = {name: value for name, value in said.items() if value is not None}
    rest = {name: value for name, value in default.items() if name not in said}
    rest |= {name: per_channel(rest[name]) for name in ('mean', 'std') if name in rest}
    return {**rest, **said}, {name: value for name, value in rest.items() if name in _SAID}
