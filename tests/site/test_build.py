"""The build is strict, quick and small, and what it makes asks no other machine for anything."""

import re
from collections import Counter
from pathlib import Path

import pytest
from pages import blocks
from paths import ROOT
from site_build import Built, build, copy_repository

import coatnet_zoo

# By fault: a file, a text that stands in it once, what the fault makes of the text, and the complaint.
FAULTS = {
    'a page that does not exist': (
        'docs/commands.md', '(hub.md)', '(hubs.md)',
        "docs/commands.md has a link to 'hubs.md', which does not exist",
    ),
    'a name that does not exist': (
        'docs/commands.md', '::: coatnet_zoo\n', '::: coatnet_zoo.CoatNet\n', 'coatnet_zoo.CoatNet could not be found'
    ),
}  # fmt: skip


@pytest.mark.parametrize('fault', FAULTS)
def test_the_build_fails(fault: str, tmp_path: Path) -> None:
    file, old, new, complaint = FAULTS[fault]
    copy_repository(tmp_path / 'copy')
    text = (ROOT / file).read_text(encoding='utf-8')
    assert text.count(old) == 1
    (tmp_path / 'copy' / file).write_text(text.replace(old, new), encoding='utf-8')
    built = build(tmp_path / 'copy', tmp_path / 'site')
    assert built.code == 1 and complaint in built.output, built.output


def test_the_build_is_quick_and_the_site_is_small(site: Built) -> None:
    assert site.code == 0, site.output
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
    page = (site.folder / 'commands.html').read_text(encoding='utf-8')
    assert [name for name in coatnet_zoo.__all__ if f'id="coatnet_zoo.{name}"' not in page] == []
