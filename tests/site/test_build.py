"""The build is strict, quick and small, and what it makes asks no other machine for anything."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import blocks
from paths import ROOT
from site_build import Built, build, copy_repository

import coatnet_zoo


def edit(file: str, old: str, new: str) -> Callable[[Path], object]:
    """A change of a copy of the repository: a text that stands once in a file is replaced."""

    def change(copy: Path) -> None:
        text = (copy / file).read_text(encoding='utf-8')
        assert text.count(old) == 1
        (copy / file).write_text(text.replace(old, new), encoding='utf-8')

    return change


FAULTS = {
    'a link to a page that does not exist': (
        edit('docs/commands.md', '[export.md](export.md)', '[export.md](exports.md)'),
        "docs/commands.md has a link to 'exports.md', which does not exist",
    ),
    'a link to a file that does not exist': (
        edit('docs/training.md', '](../scripts/cpu_ddp.py)', '](../scripts/cpu.py)'),
        "docs/training.md has a link to '../scripts/cpu.py', which does not exist",
    ),
    'an anchor that does not exist': (
        edit('docs/commands.md', '(migrating.md#from-timms-names)', '(migrating.md#from-timm)'),
        "does not contain an anchor '#from-timm'",
    ),
    'an anchor of the README that does not exist': (
        edit('docs/catalogue.md', '#which-model-should-i-use', '#which-one'),
        "does not contain an anchor '#which-one'",
    ),
    'a page that nothing leads to': (
        lambda copy: (copy / 'docs' / 'new.md').write_text('# New\n', encoding='utf-8'),
        'not included in the "nav"',
    ),
    'a public name without a docstring': (
        edit(
            'src/coatnet_zoo/errors.py',
            '"""Weights cannot be fetched from the Hub or a release page, or cannot be published on the Hub."""',
            'pass',
        ),
        'coatnet_zoo.errors.HubError has no docstring',
    ),
    'a public name that the page of the API leaves out': (
        edit('docs/api.md', '::: coatnet_zoo\n', '::: coatnet_zoo.CoAtNet\n'),
        'The page of the API does not show coatnet_zoo.optimize_for_inference',
    ),
    'a described argument that does not exist': (
        edit(
            'src/coatnet_zoo/registry/sizes.py',
            'size: Registered name without tag, e.g. `coatnet_1`.\n    """',
            'siz: Name.\n    """',
        ),
        "Parameter 'siz' does not appear in the function signature",
    ),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_the_build_fails(fault: str, tmp_path: Path) -> None:
    change, message = FAULTS[fault]
    copy_repository(tmp_path / 'copy')
    change(tmp_path / 'copy')
    built = build(tmp_path / 'copy', tmp_path / 'site')
    assert built.code == 1 and 'in strict mode' in built.said and message in built.said, built.said


def test_the_build_is_quick_and_the_site_is_small(site: Built) -> None:
    assert site.code == 0, site.said
    assert site.seconds < 60
    assert sum(file.stat().st_size for file in site.folder.rglob('*') if file.is_file()) < 5e6


def test_nothing_is_loaded_from_elsewhere(site: Built) -> None:
    """In pages and style sheets; the tests in the browser see what scripts ask for."""
    for page in site.folder.rglob('*.html'):
        text = page.read_text(encoding='utf-8')
        loads = re.findall(r'<(?:script|img|iframe|source|video)\b[^>]*\bsrc="([^"]*)"', text)
        links = re.findall(r'<link\b[^>]*>', text)
        loads += [re.search('href="([^"]*)"', link)[1] for link in links if 'rel="canonical"' not in link]
        assert loads and not [load for load in loads if re.match(r'(\w+:)?//', load)], page
    for style in site.folder.rglob('*.css'):
        text = style.read_text(encoding='utf-8')
        assert not re.findall(r'url\(["\']?(?:\w+:)?//', text) and '@import' not in text, style


@pytest.mark.parametrize('page', ['README.md', *sorted(f'docs/{page.name}' for page in (ROOT / 'docs').glob('*.md'))])
def test_code_is_code(page: str, site: Built) -> None:
    """Blocks are coloured by their language. The words after the language, which are for the tests, are not shown."""
    name = 'index' if page == 'README.md' else Path(page).stem
    text = (site.folder / f'{name}.html').read_text(encoding='utf-8')
    assert '```' not in text
    shown = Counter(re.findall(r'<div class="language-(\w+) highlight">', text))
    assert shown >= Counter(block.language or 'text' for block in blocks(page))


def test_the_api_has_every_public_name(site: Built) -> None:
    page = (site.folder / 'api.html').read_text(encoding='utf-8')
    assert [name for name in coatnet_zoo.__all__ if f'id="coatnet_zoo.{name}"' not in page] == []
