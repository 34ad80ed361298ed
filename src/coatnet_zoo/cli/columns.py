"""The table that `list` prints: as many columns as the terminal has room for, and all of them for another program."""

import shutil
import sys
from collections.abc import Callable, Sequence

from ..hub import Entry

_YES = {True: 'yes', False: 'no', None: '-'}
# By heading: the text for an entry.
_CELLS: dict[str, Callable[[Entry], str]] = {
    'name': lambda entry: entry.name,
    'impl': lambda entry: entry.impl,
    'M params': lambda entry: f'{entry.params / 1e6:.2f}',
    'G MACs': lambda entry: f'{entry.gmacs:.2f}',
    'px': lambda entry: str(entry.img_size),
    'classes': lambda entry: str(entry.num_classes),
    'top-1': lambda entry: '-' if entry.top1 is None else f'{entry.top1:.3f}',
    'licence': lambda entry: entry.license or '-',
    'source': lambda entry: entry.source or '-',
    'cached': lambda entry: _YES[entry.cached],
    '~MB': lambda entry: '-' if entry.download is None else f'{entry.download / 1e6:.0f}',
    'default': lambda entry: _YES[entry.default],
}
_NUMBERS = {'M params', 'G MACs', 'px', 'classes', 'top-1', '~MB'}
# What a narrow terminal has no room for, first to last.
_LEFT_OUT = ('source', 'licence', 'classes', 'cached', 'G MACs', 'px', '~MB', 'top-1', 'M params', 'impl')


def table(entries: Sequence[Entry]) -> str:
    """The table of entries: for the terminal, or every column and no legend where the output goes elsewhere.

    A terminal that is narrower than the names breaks the lines itself: no name is ever cut off.
    """
    columns = {heading: [heading, *map(cell, entries)] for heading, cell in _CELLS.items()}
    if not sys.stdout.isatty():
        return _layout(columns)
    del columns['default']
    columns['name'] = ['name', *(f'{entry.name} *' if entry.default else entry.name for entry in entries)]
    width = shutil.get_terminal_size().columns
    for heading in _LEFT_OUT:
        if max(map(len, _layout(columns).splitlines())) > width:
            del columns[heading]
    legend = ['', '* the default of its size']
    if '~MB' in columns:
        legend.append('- under ~MB: no weights are published, so the model is untrained')
    return '\n'.join([_layout(columns), *legend])


def _layout(columns: dict[str, list[str]]) -> str:
    padded = []
    for heading, texts in columns.items():
        width = max(map(len, texts))
        padded.append([text.rjust(width) if heading in _NUMBERS else text.ljust(width) for text in texts])
    return '\n'.join('  '.join(row).rstrip() for row in zip(*padded, strict=True))
