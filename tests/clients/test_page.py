"""Runs every block of Python of docs/ecosystem.md as printed; test_without_import.py runs the commands of the page."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest
from clients import draw_images
from pages import Block, blocks, run
from paths import ROOT

PAGE = ROOT / 'docs' / 'ecosystem.md'
FOLDER, *BLOCKS = (block for block in blocks('docs/ecosystem.md') if block.language == 'python')


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the page's reader sits."""
    folder = tmp_path_factory.mktemp('page')
    (photo, *_) = draw_images(folder / 'images')
    shutil.copyfile(photo, folder / 'photo.png')
    run(FOLDER, folder)
    return folder


@pytest.mark.parametrize('block', BLOCKS, ids=str)
def test_code_runs_as_printed(block: Block, folder: Path) -> None:
    modules = set(re.findall(r'^(?:import|from) (\w+)', block.code, flags=re.MULTILINE))
    missing = sorted(name for name in modules if importlib.util.find_spec(name) is None)
    if missing:
        pytest.skip(f'{", ".join(missing)} is not installed; `make clients` installs it')
    run(block, folder)


def test_every_line_of_the_table_has_code_that_is_run() -> None:
    page = PAGE.read_text(encoding='utf-8')
    linked = set(re.findall(r'^\| \[.*?\]\(#(.*?)\)', page, flags=re.MULTILINE))
    sections = re.findall(r'^## (.*?)\n(.*?)(?=^## |\Z)', page, flags=re.MULTILINE | re.DOTALL)
    assert linked == {title.lower().replace(' ', '-') for title, text in sections if '```python' in text}
