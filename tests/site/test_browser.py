"""The site in a real browser: pages load, fit phones and desks and suit everybody; the catalogue works as it says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from site_data import NAV, ROWS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from site_build import Built

# Pages of each kind: the catalogue, long texts with tables, pictures and mathematics, and the API.
CHECKED = ('models.html', 'index.html', 'performance.html', 'commands.html', 'ecosystem.html', 'implementations.html')
# The first cells of tables that are wider than the frame that they scroll in.
CUT_TABLES = """[...document.querySelectorAll('table')].filter((table) => {
    const frame = table.closest('.md-typeset__scrollwrap, .cz-scroll');
    return frame && table.scrollWidth > frame.clientWidth + 1;
}).map((table) => table.rows[0].innerText)"""
WITH_WEIGHTS = [row for row in ROWS if row['tag']]
PLOTTED = [row for row in WITH_WEIGHTS if row['top1'] and row['num_classes'] == 1000]


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """A function that opens a page; the test fails if a page logs an error or asks another machine for anything."""
    faults, contexts = [], []

    def open_(path: str, width: int = 1440, palette: str = 'light') -> Page:
        contexts.append(browser.new_context(viewport={'width': width, 'height': 900}, color_scheme=palette))
        contexts[-1].grant_permissions(['clipboard-read', 'clipboard-write'])
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


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    return open_page('models.html')


@pytest.mark.parametrize('path', [page.replace('.md', '.html') for page in NAV])
def test_pages_load_and_fit(path: str, open_page: Callable[..., Page]) -> None:
    page = open_page(path)
    assert page.locator('h1').count() == 1
    assert page.evaluate('[...document.images].filter((i) => !i.complete || !i.naturalWidth || !i.alt).length') == 0
    for width in (360, 768, 1440):
        page.set_viewport_size({'width': width, 'height': 900})
        page.wait_for_timeout(50)
        assert page.evaluate('document.documentElement.scrollWidth') <= width
        cut = page.evaluate(CUT_TABLES) if width >= 768 else []
        assert cut == [], f'tables are cut at {width} pixels'


@pytest.mark.parametrize('palette', ['light', 'dark'])
@pytest.mark.parametrize('path', CHECKED)
def test_everybody_can_use_it(path: str, palette: str, open_page: Callable[..., Page], axe: str) -> None:
    for width in (360, 1440):
        page = open_page(path, width=width, palette=palette)
        if path == 'models.html':
            page.locator('.cz-point').first.press('Enter')
        page.evaluate(axe)
        found = page.evaluate('axe.run()')['violations']
        bad = [v for v in found if v['impact'] in ('serious', 'critical')]
        assert [(v['id'], [node['html'][:200] for node in v['nodes'][:3]]) for v in bad] == []


def names(page: Page) -> list[str]:
    """The names in the table, in the order in which they are shown."""
    shown = page.locator('.cz-table tbody tr:visible th')
    return [text.strip() for text in shown.all_inner_texts()]


def chosen(page: Page) -> str:
    """The name of the chosen model, which stands above the lines to copy."""
    return page.locator('.cz-chosen h2').inner_text()


@pytest.mark.parametrize('key', ['top1', 'params', 'gmacs', 'download', 'img_size', 'cpu_images_per_second', 'license'])
def test_sorting(key: str, page: Page) -> None:
    head = page.locator(f'th[data-key={key}]')
    value = {row['name']: row[key] for row in WITH_WEIGHTS}
    for press, direction in (('click', 'ascending'), ('Enter', 'descending'), ('Space', 'ascending')):
        button = head.locator('button')
        button.click() if press == 'click' else button.press(press)
        assert head.get_attribute('aria-sort') == direction
        assert page.locator('[aria-sort]').count() == 1
        shown = [value[name] for name in names(page)]
        known = sorted((v for v in shown if v is not None), reverse=direction == 'descending')
        assert shown == known + [None] * (len(WITH_WEIGHTS) - len(known))


def test_filtering(page: Page) -> None:
    assert names(page) == [row['name'] for row in WITH_WEIGHTS]
    page.get_by_label('Find').fill('ft_in1k TIMM_RMLP ')
    matching = (r for r in WITH_WEIGHTS if 'ft_in1k' in r['name'] and r['impl'].startswith('timm_rmlp'))
    assert names(page) == [row['name'] for row in matching]
    page.get_by_label('Find').fill('')
    page.get_by_label('Implementation').select_option('keras_cv')
    assert names(page) == ['coatnet_0.kecam_in1k', 'coatnet_0.kecam_in1k_160']
    page.get_by_label('with weights').uncheck()
    assert names(page) == [row['name'] for row in ROWS if row['impl'] == 'keras_cv']
    assert page.locator('.cz-point').count() == 2
    page.get_by_label('Implementation').select_option('')
    assert names(page) == [row['name'] for row in ROWS]
    assert page.get_by_role('status').first.inner_text() == f'{len(ROWS)} of {len(ROWS)}'
    page.get_by_label('Find').fill('nothing')
    assert names(page) == [] and page.locator('.cz-point').count() == 0


def test_the_plot(page: Page) -> None:
    points = page.locator('.cz-point')
    assert points.count() == len(PLOTTED)
    assert points.locator('path').count() == sum(row['trained_on'].startswith('ImageNet-12k') for row in PLOTTED)
    page.get_by_label('CPU speed').check()
    measured = [row for row in PLOTTED if row['cpu_images_per_second']]
    assert points.count() == len(measured)
    places = {point.get_attribute('data-name'): point.bounding_box() for point in points.all()}
    for coordinate, key, sign in (('x', 'cpu_images_per_second', 1), ('y', 'top1', -1)):
        shown = sorted(places, key=lambda name, c=coordinate, s=sign: s * places[name][c])
        assert shown == [row['name'] for row in sorted(measured, key=lambda row, key=key: row[key])]
    point = page.locator('[data-name="coatnet_1.sw_in1k"]')
    point.hover()
    assert 'coatnet_1.sw_in1k83.6 %' in page.locator('.cz-label').text_content()
    point.click()
    assert page.locator('tr.cz-on').inner_text().startswith('coatnet_1.sw_in1k')
    assert chosen(page) == 'coatnet_1.sw_in1k'
    page.locator('[data-name="coatnet_0.sw_in1k"]').focus()
    assert 'coatnet_0.sw_in1k' in page.locator('.cz-label').text_content()
    page.keyboard.press('Enter')
    assert chosen(page) == 'coatnet_0.sw_in1k'
    page.get_by_label('MACs').check()
    assert page.locator('.cz-point.cz-on').get_attribute('data-name') == 'coatnet_0.sw_in1k'


def test_points_upon_each_other_are_chosen_in_turn(page: Page) -> None:
    box = page.locator('[data-name="coatnet_2.sw_in12k_ft_in1k"]').bounding_box()
    found = set()
    for _ in range(2):
        page.mouse.click(box['x'] + box['width'] / 2, box['y'] + box['height'] / 2)
        found.add(chosen(page))
    assert found == {'coatnet_2.sw_in12k_ft_in1k', 'coatnet_2.rmlp_sw_in12k_ft_in1k'}


def test_the_copied_lines(page: Page, tmp_path: Path) -> None:
    """Those that build the bundled weights run here; tests/site/test_pages.py has those of all models."""
    page.get_by_role('button', name='coatnet_atto.digits').click()
    copied = {}
    for line in page.locator('.cz-line').all():
        line.get_by_role('button').click()
        line.get_by_text('Copied').wait_for()
        copied[line.locator('h3').inner_text()] = page.evaluate('navigator.clipboard.readText()')
    assert copied == next(row['lines'] for row in ROWS if row['name'] == 'coatnet_atto.digits')
    for what in ('Create', 'Fine-tune'):
        subprocess.run([sys.executable, '-c', copied[what]], check=True, cwd=tmp_path)


def test_back_to_the_table(page: Page) -> None:
    button = page.get_by_role('button', name='coatnet_3.sw_in12k')
    button.press('Enter')
    assert page.locator('.cz-label').text_content() == ''  # no accuracy is published, so there is no point
    assert chosen(page) == page.evaluate('document.activeElement.innerText') == 'coatnet_3.sw_in12k'
    page.get_by_role('button', name='Back to the table').press('Enter')
    assert button.evaluate('(b) => b === document.activeElement')
    assert button.get_attribute('aria-pressed') == 'true'


def test_without_javascript(browser: Browser, address: str) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto(f'{address}/models.html')
    assert names(page) == [row['name'] for row in ROWS]
    assert page.locator('.cz-look, .cz-filter').filter(visible=True).count() == 0
    page.close()


def test_from_a_folder(browser: Browser, site: Built) -> None:
    page = browser.new_page(offline=True)
    faults = []
    page.on('console', lambda message: message.type == 'error' and faults.append(message.text))
    page.on('pageerror', lambda error: faults.append(str(error)))
    page.goto(f'{site.folder.as_uri()}/models.html')
    page.locator('.cz-point').first.press('Enter')
    page.locator('.cz-line button').first.click()
    page.get_by_text('Copied').wait_for()
    page.locator('.md-nav__link', has_text='Fine-tune').first.click()
    page.wait_for_url('**/finetuning.html', wait_until='networkidle')
    page.locator('.md-search__input').first.press_sequentially('relative bias')
    page.locator('.md-search-result__link[href*="implementations.html"]').first.wait_for()
    assert faults == []
    page.close()
