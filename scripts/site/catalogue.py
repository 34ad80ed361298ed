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
# On GitHub, the page has a picture and a plain table between these marks.
_REGION = re.compile('(<!-- catalogue -->).*?<!-- end of catalogue -->', re.DOTALL)
_MARK = '<!-- catalogue -->'
_TEMPLATE = Path(__file__).with_name('catalogue.html')
CPU = 'cpu_images_per_second'

Row = dict[str, Any]


class Column(NamedTuple):
    """A column of the table: the field by which it sorts, its head with the unit, and the content of a cell."""

    key: str
    head: str
    cell: Callable[[Row], str]
    is_number: bool = True

    @property
    def style(self) -> str:
        return ' class="cz-right"' if self.is_number else ''


def _number(key: str, digits: int, unit: float = 1) -> Callable[[Row], str]:
    return lambda row: '' if row[key] is None else f'{row[key] / unit:,.{digits}f}'


def _text(key: str) -> Callable[[Row], str]:
    return lambda row: html.escape(row[key] or '')


def _name(row: Row) -> str:
    breakable = re.sub('([._])', r'\1<wbr>', row['name'])
    return f'<code>{breakable}</code>'


def _source(row: Row) -> str:
    source = row['source']
    if source in (None, 'bundled'):
        return source or ''
    place, address = ('GitHub', source) if '://' in source else ('Hub', f'https://huggingface.co/{source}')
    return f'<a href="{html.escape(address)}" aria-label="{row["name"]} on the {place}">{place}</a>'


COLUMNS = [
    Column('name', 'model', _name, is_number=False),
    Column('impl', 'impl', _text('impl'), is_number=False),
    Column('top1', 'top-1<br>%', _number('top1', 1)),
    Column('params', 'params<br>M', _number('params', 2, 1e6)),
    Column('gmacs', 'MACs<br>G', _number('gmacs', 2)),
    Column('download', 'download<br>MB', _number('download', 0, 1e6)),
    Column('img_size', 'pixels', _number('img_size', 0)),
    Column(CPU, 'CPU<br>images/s', _number(CPU, 2)),
    Column('trained_on', 'trained on', _text('trained_on'), is_number=False),
    Column('license', 'licence', _text('license'), is_number=False),
    Column('source', 'source', _source, is_number=False),
]


def rows() -> list[Row]:
    """The objects of `list --json` without `cached`, with the measured speed on a CPU, and the lines to copy."""
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
    which = f"'{name}', pretrained=True" if row['tag'] else f"'{name}', impl='{row['impl']}'"
    python = f'import coatnet_zoo\nimport timm\n\nmodel = timm.create_model({which}'
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
    found, page = rows(), _TEMPLATE.read_text(encoding='utf-8')
    head = ''.join(f'<th scope="col" data-key="{c.key}"{c.style}>{c.head}</th>' for c in COLUMNS)
    body = ''
    for row in found:
        cells = ''.join(f'<td{c.style}>{c.cell(row)}</td>' for c in COLUMNS[1:])
        body += f'<tr><th scope="row">{COLUMNS[0].cell(row)}</th>{cells}</tr>\n'
    data = json.dumps(found).replace('<', r'\u003c')
    return page.replace('{head}', head).replace('{body}', body).replace('{data}', data)


def on_page_markdown(markdown: str, page: Page, **_) -> str:
    """Give the catalogue the width of the table of contents, which the page does not need."""
    if _MARK in markdown:
        page.meta['hide'] = ['toc']
    return _REGION.sub(r'\1', markdown)


def on_page_content(html: str, **_) -> str:
    """Put the catalogue in place of its mark."""
    return html.replace(_MARK, catalogue()) if _MARK in html else html
