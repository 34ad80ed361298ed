"""The table that `list` prints: as many columns as the terminal has place for, and all of them for another program."""

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..hub import Entry

_GAP = '  '
_DEFAULT_LEGEND = '* the default of its size'
_DOWNLOAD_LEGEND = '- under ~MB: no weights are published, so the model is untrained'


@dataclass(frozen=True)
class _Column:
    """A column.

    Attributes:
        heading: What the first line shows.
        cell: The text for an entry.
        left_out: Where the terminal is too narrow, the column with the largest number is left out first. 0: never.
        is_number: Whether the cells are numbers, which end at the right.
    """

    heading: str
    cell: Callable[[Entry], str]
    left_out: int = 0
    is_number: bool = False


def _yes(value: bool | None) -> str:
    return {True: 'yes', False: 'no', None: '-'}[value]


_NAME = _Column('name', lambda entry: entry.name)
_MARKED = _Column('name', lambda entry: f'{entry.name} *' if entry.default else entry.name)
_DEFAULT = _Column('default', lambda entry: _yes(entry.default))
_DOWNLOAD = _Column('~MB', lambda entry: '-' if entry.download is None else f'{entry.download / 1e6:.0f}', 4, True)
_COLUMNS = (
    _Column('impl', lambda entry: entry.impl, 1),
    _Column('M params', lambda entry: f'{entry.params / 1e6:.2f}', 2, True),
    _Column('G MACs', lambda entry: f'{entry.gmacs:.2f}', 6, True),
    _Column('px', lambda entry: str(entry.img_size), 5, True),
    _Column('classes', lambda entry: str(entry.num_classes), 8, True),
    _Column('top-1', lambda entry: '-' if entry.top1 is None else f'{entry.top1:.3f}', 3, True),
    _Column('licence', lambda entry: entry.license or '-', 9),
    _Column('source', lambda entry: entry.source or '-', 10),
    _Column('cached', lambda entry: _yes(entry.cached), 7),
    _DOWNLOAD,
)


def table(entries: Sequence[Entry]) -> str:
    """The table of entries: for the terminal, or every column and no legend where the output goes elsewhere.

    A terminal that is narrower than the names breaks the lines itself: no name is ever cut off.
    """
    if not sys.stdout.isatty():
        return _layout(entries, [_NAME, *_COLUMNS, _DEFAULT])
    columns, width = [_MARKED, *_COLUMNS], shutil.get_terminal_size().columns
    text = _layout(entries, columns)
    while len(columns) > 1 and max(map(len, text.splitlines())) > width:
        columns.remove(max(columns, key=lambda column: column.left_out))
        text = _layout(entries, columns)
    return '\n'.join([text, '', _DEFAULT_LEGEND, *([_DOWNLOAD_LEGEND] if _DOWNLOAD in columns else [])])


def _layout(entries: Sequence[Entry], columns: Sequence[_Column]) -> str:
    cells = [[column.heading, *map(column.cell, entries)] for column in columns]
    widths = [max(map(len, texts)) for texts in cells]
    return '\n'.join(
        _GAP.join(
            text.rjust(width) if column.is_number else text.ljust(width)
            for text, width, column in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in zip(*cells, strict=True)
    )
