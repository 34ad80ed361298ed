"""A hook of the site: the page to choose a model on, made from `coatnet-zoo list --json` and docs/models.csv."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
# On GitHub, the page has a picture and a plain table between these marks.
_REGION = re.compile('(<!-- catalogue -->).*?<!-- end of catalogue -->', re.DOTALL)
_MARK = '<!-- catalogue -->'
CPU = 'cpu_images_per_second'

Row = dict[str, Any]


class Column(NamedTuple):
    """A column of the table: the field by which it sorts, and its head. Numbers have digits, and may have a unit."""

    key: str
    head: str
    digits: int | None = None
    unit: float = 1

    @property
    def style(self) -> str:
        return '' if self.digits is None else ' class="cz-right"'

    def cell(self, row: Row) -> str:
        value = row[self.key]
        if value is None:
            return ''
        if self.digits is not None:
            return f'{value / self.unit:,.{self.digits}f}'
        if self.key == 'name':
            return re.sub('([._])', r'\1<wbr>', value).join(('<code>', '</code>'))
        if self.key == 'source' and value != 'bundled':
            place, address = ('GitHub', value) if '://' in value else ('Hub', f'https://huggingface.co/{value}')
            return f'<a href="{html.escape(address)}" aria-label="{row["name"]} on the {place}">{place}</a>'
        return html.escape(value)


COLUMNS = [
    Column('name', 'model'),
    Column('impl', 'impl'),
    Column('top1', 'top-1<br>%', 1),
    Column('params', 'params<br>M', 2, 1e6),
    Column('gmacs', 'MACs<br>G', 2),
    Column('download', 'download<br>MB', 0, 1e6),
    Column('img_size', 'pixels', 0),
    Column(CPU, 'CPU<br>images/s', 2),
    Column('trained_on', 'trained on'),
    Column('license', 'licence'),
    Column('source', 'source'),
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
    found, page = rows(), Path(__file__).with_suffix('.html').read_text(encoding='utf-8')
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
