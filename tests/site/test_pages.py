"""What the site is made from, checked without the software that makes the site."""

import inspect
import json
import re
import shlex
from typing import Any
from unittest import mock

import pytest
import timm
from command_line import output_of
from paths import ROOT
from site_data import NAV, ROWS

import coatnet_zoo
from coatnet_zoo.cli import main
from scripts.site.catalogue import CPU

PAGES = {f'docs/{file.name}' for file in (ROOT / 'docs').glob('*.md')} | {'README.md'}


def test_every_page_is_in_the_navigation_once() -> None:
    names = [page.removeprefix('docs/') for page in PAGES]
    assert sorted(NAV) == sorted('index.md' if name == 'README.md' else name for name in names)
    assert len(NAV) <= 12


def test_the_catalogue_is_the_list() -> None:
    listed = json.loads(output_of('list', '--json'))
    assert [dict(row, cached=None) | {CPU: None, 'lines': None} for row in listed] == [
        dict(row, cached=None) | {CPU: None, 'lines': None} for row in ROWS
    ]
    speeds = (ROOT / 'docs' / 'models.csv').read_text(encoding='utf-8').splitlines()[1:]
    assert {row['name'] for row in ROWS if row[CPU]} == {line.split(',')[0] for line in speeds}


@pytest.mark.parametrize('page', sorted(PAGES | {'CHANGELOG.md', 'CONTRIBUTING.md'}))
def test_pages_mean_the_same_on_github_and_on_the_site(page: str) -> None:
    """The generator nests lists by four spaces and wants a line before a list; pictures have words for the blind."""
    text = re.sub(r'^```.*?^```$', '', (ROOT / page).read_text(encoding='utf-8'), flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r'^ {1,3}(?:[-*+]|\d+\.) ', text, flags=re.MULTILINE)
    assert not re.findall(r'^(?!\s|[-*+#|] |\d+\. ).+\n[-*+] .*', text, flags=re.MULTILINE)
    assert all(len(words) >= 15 for words in re.findall(r'!\[([^\]]*)\]', text))


def test_public_names_have_docstrings_and_are_on_the_page_of_the_api() -> None:
    page = (ROOT / 'docs' / 'commands.md').read_text(encoding='utf-8')
    members = re.search(r'members: \[([^\]]*)\]', page)[1]
    assert sorted(re.findall(r'\w+', members)) == sorted(coatnet_zoo.__all__)
    for name in coatnet_zoo.__all__:
        public = getattr(coatnet_zoo, name)
        members = vars(public).values() if inspect.isclass(public) else ()
        ours = [m for m in members if inspect.isfunction(m) and not m.__name__.startswith('_')]
        assert all(vars(each).get('__doc__') or each.__doc__ for each in (public, *ours)), name


@pytest.mark.parametrize('row', ROWS, ids=lambda row: f'{row["name"]}-{row["impl"]}')
def test_lines_to_copy(row: dict[str, Any]) -> None:
    """Python builds the network of the row, small ones really; commands have arguments that the command takes."""
    lines = row['lines']
    assert list(lines)[:1] == ['Create'] and (len(lines) == 4) == bool(row['tag'])
    for what, text in lines.items():
        if not text.startswith('import'):
            program, name, *args = shlex.split(text, comments=True)
            assert program == 'coatnet-zoo' and name == what.lower() and args[0] == row['name']
            main.commands[name].make_context(name, args)
            continue
        with mock.patch('timm.create_model') as create:
            exec(compile(text, what, 'exec'), {})
        (name,), kwargs = create.call_args
        assert timm.is_model(name) and kwargs.pop('pretrained', False) == bool(row['tag'])
        if row['params'] < 30e6 and what != 'Create':
            model = timm.create_model(name, **kwargs, device='meta')
            assert (model.num_classes, model.cfg.impl) == (5, row['impl'])
