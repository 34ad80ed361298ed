"""The site in a real browser: every page loads, fits phones and desks, can be searched, and suits everybody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from site_data import NAV

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAGES = [page.replace('.md', '.html') for page in NAV]
WIDTHS = (360, 768, 1440)
PALETTES = ('light', 'dark')
# Pages of each kind: a long text with tables, one with pictures, and the API.
CHECKED = ('catalogue.html', 'index.html', 'performance.html', 'api.html', 'ecosystem.html')


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """A function that opens a page; the test fails if a page said an error or asked another machine for anything."""
    faults, contexts = [], []

    def open_(path: str, width: int = 1440, palette: str = 'light') -> Page:
        contexts.append(browser.new_context(viewport={'width': width, 'height': 900}, color_scheme=palette))
        page = contexts[-1].new_page()
        page.on('console', lambda message: message.type in ('error', 'warning') and faults.append(message.text))
        page.on('pageerror', lambda error: faults.append(str(error)))
        page.on('request', lambda request: request.url.startswith((address, 'data:')) or faults.append(request.url))
        page.on('response', lambda response: response.status >= 400 and faults.append(response.url))
        page.goto(f'{address}/{path}', wait_until='networkidle')
        return page

    yield open_
    for context in contexts:
        context.close()
    assert faults == []


@pytest.mark.parametrize('path', PAGES)
def test_pages_load_and_fit(path: str, open_page: Callable[..., Page]) -> None:
    page = open_page(path)
    assert page.locator('h1').count() == 1
    assert page.evaluate('[...document.images].filter((i) => !i.complete || !i.naturalWidth || !i.alt).length') == 0
    for width in WIDTHS:
        page.set_viewport_size({'width': width, 'height': 900})
        page.wait_for_timeout(50)
        assert page.evaluate('document.documentElement.scrollWidth') <= width
        # What is wider than the window scrolls in a frame of its own.
        assert page.evaluate(WIDER) == [], f'{path} at {width} pixels'


WIDER = """() => [...document.querySelectorAll('.md-content *')]
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && e.getClientRects().length)
  .filter((e) => {
    for (let p = e.parentElement; p; p = p.parentElement) {
      if (/auto|scroll/.test(getComputedStyle(p).overflowX)) return false;
    }
    return !/auto|scroll/.test(getComputedStyle(e).overflowX);
  })
  .map((e) => e.outerHTML.slice(0, 200))"""


def test_search(open_page: Callable[..., Page]) -> None:
    page = open_page('index.html')
    page.locator('.md-search__input').first.press_sequentially('relative bias')
    results = page.locator('.md-search-result__link')
    results.first.wait_for()
    assert any('implementations.html' in link.get_attribute('href') for link in results.all())
    results.first.click()
    assert 'relative' in page.locator('.md-content').inner_text().lower()


@pytest.mark.parametrize('palette', PALETTES)
@pytest.mark.parametrize('path', CHECKED)
def test_everybody_can_use_it(path: str, palette: str, open_page: Callable[..., Page], axe: str) -> None:
    for width in (360, 1440):
        page = open_page(path, width=width, palette=palette)
        if path == 'catalogue.html':
            page.locator('.cz-point').first.press('Enter')
        page.evaluate(axe)
        found = page.evaluate('axe.run()')['violations']
        bad = [v for v in found if v['impact'] in ('serious', 'critical')]
        assert [(v['id'], [node['html'][:200] for node in v['nodes'][:3]]) for v in bad] == []


def test_the_palette_can_be_changed(open_page: Callable[..., Page]) -> None:
    page = open_page('catalogue.html', palette='dark')
    shade = 'getComputedStyle(document.body).backgroundColor'
    dark = page.evaluate(shade)
    page.locator('label[for="__palette_1"]').click()
    assert page.evaluate(shade) != dark
