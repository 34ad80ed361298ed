"""The page to choose a model on, in a real browser: by mouse, by keyboard, from a folder and without JavaScript."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from site_data import ROWS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from site_build import Built

WITH_WEIGHTS = [row for row in ROWS if row['tag']]
PLOTTED = [row for row in WITH_WEIGHTS if row['top1'] and row['num_classes'] == 1000]
CLIPBOARD = ['clipboard-read', 'clipboard-write']


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(permissions=CLIPBOARD, viewport={'width': 1440, 'height': 900})
    page = context.new_page()
    page.goto(f'{address}/catalogue.html')
    yield page
    context.close()


def names(page: Page) -> list[str]:
    """The names in the table, in the order in which they are shown."""
    shown = page.locator('.cz-table tbody tr:visible th')
    return [text.strip() for text in shown.all_inner_texts()]


def by(key: str, found: list[dict[str, Any]] = WITH_WEIGHTS, down: bool = False) -> list[float]:
    return sorted((row[key] for row in found if row[key] is not None), reverse=down)


@pytest.mark.parametrize('key', ['top1', 'params', 'gmacs', 'download', 'img_size', 'cpu_images_per_second'])
def test_sorting(key: str, page: Page) -> None:
    head = page.locator(f'th[data-key={key}]')
    value = {row['name']: row[key] for row in WITH_WEIGHTS}
    for press, direction in (('click', 'ascending'), ('Enter', 'descending'), ('Space', 'ascending')):
        button = head.locator('button')
        button.click() if press == 'click' else button.press(press)
        assert head.get_attribute('aria-sort') == direction
        assert page.locator('[aria-sort]').count() == 1
        shown = [value[name] for name in names(page)]
        known = [v for v in shown if v is not None]
        assert known == by(key, down=direction == 'descending') == shown[: len(known)]


def test_sorting_by_name(page: Page) -> None:
    page.locator('th[data-key=name] button').click()
    assert len(names(page)) == len(WITH_WEIGHTS) and names(page)[0] == 'coatnet_0.bn_sw_in1k'
    page.locator('th[data-key=license] button').click()
    page.locator('th[data-key=license] button').click()
    assert names(page)[0].startswith('coatnet_0.kecam')
    assert page.locator('[aria-sort]').count() == 1


def test_filtering(page: Page) -> None:
    assert names(page) == [row['name'] for row in WITH_WEIGHTS]
    page.get_by_label('Find').fill('ft_in1k TIMM_RMLP ')
    assert names(page) == [
        r['name'] for r in WITH_WEIGHTS if 'ft_in1k' in r['name'] and r['impl'].startswith('timm_rmlp')
    ]
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
    right = sorted(places, key=lambda name: places[name]['x'])
    assert right == [row['name'] for row in sorted(measured, key=lambda row: row['cpu_images_per_second'])]
    low = sorted(places, key=lambda name: -places[name]['y'])
    assert low == [row['name'] for row in sorted(measured, key=lambda row: row['top1'])]
    point = page.locator('[data-name="coatnet_1.sw_in1k"]')
    point.hover()
    assert 'coatnet_1.sw_in1k83.6 %' in page.locator('.cz-label').text_content()
    point.click()
    assert page.locator('tr.cz-on').inner_text().startswith('coatnet_1.sw_in1k')
    assert page.locator('.cz-chosen h2').inner_text() == 'coatnet_1.sw_in1k'
    page.locator('[data-name="coatnet_0.sw_in1k"]').focus()
    assert 'coatnet_0.sw_in1k' in page.locator('.cz-label').text_content()
    page.keyboard.press('Enter')
    assert page.locator('.cz-chosen h2').inner_text() == 'coatnet_0.sw_in1k'
    page.get_by_label('MACs').check()
    assert page.locator('.cz-point.cz-on').get_attribute('data-name') == 'coatnet_0.sw_in1k'


def test_points_upon_each_other_are_chosen_in_turn(page: Page) -> None:
    box = page.locator('[data-name="coatnet_2.sw_in12k_ft_in1k"]').bounding_box()
    found = set()
    for _ in range(2):
        page.mouse.click(box['x'] + box['width'] / 2, box['y'] + box['height'] / 2)
        found.add(page.locator('.cz-chosen h2').inner_text())
    assert found == {'coatnet_2.sw_in12k_ft_in1k', 'coatnet_2.rmlp_sw_in12k_ft_in1k'}


def copied(page: Page) -> dict[str, str]:
    """What the buttons of the chosen model copy, as a paste gives it."""
    texts = {}
    for line in page.locator('.cz-line').all():
        line.get_by_role('button').click()
        line.get_by_text('Copied').wait_for()
        page.get_by_label('Find').fill('')
        texts[line.locator('h3').inner_text()] = page.evaluate('navigator.clipboard.readText()')
    return texts


def test_the_copied_lines(page: Page, tmp_path: Path) -> None:
    """Those of the shipped weights run here; tests/site/test_pages.py has those of all models."""
    page.get_by_role('button', name='coatnet_atto.digits').click()
    lines = copied(page)
    assert lines == next(row['lines'] for row in ROWS if row['name'] == 'coatnet_atto.digits')
    for what in ('Create', 'Fine-tune'):
        subprocess.run([sys.executable, '-c', lines[what]], check=True, cwd=tmp_path)
    for what in ('Pull', 'Export'):
        if what == 'Export':
            pytest.importorskip('onnxruntime', reason='needs the extra onnx')
        program, *args = lines[what].split()
        assert program == 'coatnet-zoo'
        subprocess.run([sys.executable, '-m', 'coatnet_zoo', *args], check=True, cwd=tmp_path)
    assert (tmp_path / 'exported' / 'model.onnx').is_file()


def test_back_to_the_table(page: Page) -> None:
    button = page.get_by_role('button', name='coatnet_3.sw_in12k')
    button.press('Enter')
    assert page.locator('.cz-label').text_content() == ''  # no accuracy is published, so there is no point
    assert page.evaluate('document.activeElement.innerText') == 'coatnet_3.sw_in12k'
    assert page.locator('.cz-chosen h2').evaluate('(h) => h === document.activeElement')
    page.get_by_role('button', name='Back to the table').press('Enter')
    assert button.evaluate('(b) => b === document.activeElement')
    assert button.get_attribute('aria-pressed') == 'true'
    page.locator('tbody').get_by_role('button', name='coatnet_1.sw_in1k').click()
    assert 'coatnet_1.sw_in1k' in page.locator('.cz-label').text_content()


def test_without_javascript(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f'{address}/catalogue.html')
    assert names(page) == [row['name'] for row in ROWS]
    assert page.locator('.cz-look, .cz-filter').filter(visible=True).count() == 0
    context.close()


def test_from_a_folder(browser: Browser, site: Built) -> None:
    context = browser.new_context(offline=True)
    page = context.new_page()
    faults = []
    page.on('console', lambda message: message.type == 'error' and faults.append(message.text))
    page.on('pageerror', lambda error: faults.append(str(error)))
    page.goto(f'{site.folder.as_uri()}/catalogue.html')
    page.locator('th[data-key=params] button').click()
    page.locator('th[data-key=params] button').click()
    assert names(page)[0] == 'coatnet_3.sw_in12k'
    page.locator('.cz-point').first.press('Enter')
    page.locator('.cz-line button').first.click()
    page.get_by_text('Copied').wait_for()
    page.locator('.md-nav__link', has_text='Fine-tune').first.click()
    page.wait_for_url('**/finetuning.html', wait_until='networkidle')
    page.locator('.md-search__input').first.press_sequentially('relative bias')
    page.locator('.md-search-result__link[href*="implementations.html"]').first.wait_for()
    assert faults == []
    context.close()
