"""A hook of the site: the page to choose a model on, made from `coatnet-zoo list --json` and docs/models.csv."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
# On GitHub, the page has a sentence between these marks.
_REGION = re.compile('(<!-- catalogue -->).*?<!-- end of catalogue -->', re.DOTALL)
_MARK = '<!-- catalogue -->'
CPU = 'cpu_images_per_second'
_TEMPLATE = Path(__file__).with_name('catalogue.html')

Row = dict[str, Any]


class Column(NamedTuple):
    """A column of the table: the field by which it sorts, its head with the unit, and the content of a cell."""

    key: str
    head: str
    cell: Callable[[Row], str]
    right: bool = True


def _number(key: str, digits: int, unit: float = 1) -> Callable[[Row], str]:
    return lambda row: '' if row[key] is None else f'{row[key] / unit:,.{digits}f}'


def _text(key: str) -> Callable[[Row], str]:
    return lambda row: html.escape(row[key] or '')


def _name(row: Row) -> str:
    breakable = re.sub('([._])', r'\1<wbr>', row['name'])
    return f'<code>{breakable}</code>'


def _source(row: Row) -> str:
    source = row['source']
    if source in (None, 'shipped'):
        return source or ''
    place, address = ('GitHub', source) if '://' in source else ('Hub', f'https://huggingface.co/{source}')
    return f'<a href="{html.escape(address)}" aria-label="{row["name"]} on the {place}">{place}</a>'


COLUMNS = [
    Column('name', 'model', _name, right=False),
    Column('impl', 'implementation', _text('impl'), right=False),
    Column('top1', 'top-1<br>%', _number('top1', 1)),
    Column('params', 'parameters<br>M', _number('params', 2, 1e6)),
    Column('gmacs', 'MACs<br>G', _number('gmacs', 2)),
    Column('download', 'download<br>MB', _number('download', 0, 1e6)),
    Column('img_size', 'pixels', _number('img_size', 0)),
    Column(CPU, 'CPU<br>images/s', _number(CPU, 2)),
    Column('trained_on', 'trained on', _text('trained_on'), right=False),
    Column('license', 'licence', _text('license'), right=False),
    Column('source', 'source', _source, right=False),
]


def rows() -> list[Row]:
    """The objects of `list --json`, with the speed on a CPU where it was measured, and the lines to copy.

    `cached` is left out, which is true of one machine only.
    """
    command = [sys.executable, '-m', 'coatnet_zoo', 'list', '--json']
    env = {**os.environ, 'PYTHONPATH': str(ROOT / 'src')}
    listed = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, env=env).stdout)
    with (ROOT / 'docs' / 'models.csv').open(newline='', encoding='utf-8') as f:
        speeds = {row['name']: float(row[CPU]) for row in csv.DictReader(f)}
    for row in listed:
        del row['cached']
        row |= {CPU: speeds.get(row['name']), 'lines': lines(row)}
    return listed


def lines(row: Row) -> dict[str, str]:
    """What one copies to use a network, by what it does: Python, and commands for a shell."""
    name = row['name']
    said = f"'{name}', pretrained=True" if row['tag'] else f"'{name}', impl='{row['impl']}'"
    python = f'import coatnet_zoo\nimport timm\n\nmodel = timm.create_model({said}'
    tune = f'{python}, num_classes=5, drop_path_rate=0.2)'
    if not row['tag']:
        return {'Create': f'{python})', 'Train from scratch': tune}
    extra = "  # needs: pip install 'coatnet-zoo[keras]'" if row['source'].endswith('.h5') else ''
    return {
        'Create': f'{python}).eval()',
        'Fine-tune': tune,
        'Pull': f'coatnet-zoo pull {name}{extra}',
        'Export': f'coatnet-zoo export {name} exported --format onnx',
    }


def catalogue() -> str:
    """The HTML of the catalogue: a plain table, and what docs/assets/catalogue.js shows."""
    found = rows()
    head = ''.join(f'<th scope="col" data-key="{c.key}"{_right(c)}>{c.head}</th>' for c in COLUMNS)
    body = '\n'.join(f'<tr>{"".join(map(_cell, COLUMNS, [row] * len(COLUMNS)))}</tr>' for row in found)
    data = json.dumps(found).replace('<', r'\u003c')
    template = _TEMPLATE.read_text(encoding='utf-8')
    return template.replace('{head}', head).replace('{body}', body).replace('{data}', data)


def _cell(column: Column, row: Row) -> str:
    if column.key == 'name':
        return f'<th scope="row">{column.cell(row)}</th>'
    return f'<td{_right(column)}>{column.cell(row)}</td>'


def _right(column: Column) -> str:
    return ' class="cz-right"' if column.right else ''


def on_page_markdown(markdown: str, page: Page, **_) -> str:
    """Give the catalogue the width of the table of contents, which the page does not need."""
    if _MARK in markdown:
        page.meta['hide'] = ['toc']
    return _REGION.sub(r'\1', markdown)


def on_page_content(html: str, **_) -> str:
    """Put the catalogue in place of its mark."""
    return html.replace(_MARK, catalogue()) if _MARK in html else html
