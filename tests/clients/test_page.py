"""Runs every piece of Python of docs/ecosystem.md as printed, each in a Python of its own.

test_without_import.py runs the commands of the page.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from clients import draw_images
from paths import ROOT

PAGE = (ROOT / 'docs' / 'ecosystem.md').read_text(encoding='utf-8')
SECTIONS = re.findall(r'^## (.*?)\n(.*?)(?=^## |\Z)', f'## the folder\n{PAGE}', flags=re.MULTILINE | re.DOTALL)
BLOCKS = {
    f'{title}, {i}': code
    for title, text in SECTIONS
    for i, code in enumerate(re.findall(r'^```python\n(.*?)^```', text, flags=re.MULTILINE | re.DOTALL), start=1)
}


def run(code: str, folder: Path) -> None:
    env = {**os.environ, 'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=folder, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the page's reader sits."""
    folder = tmp_path_factory.mktemp('page')
    (photo, *_) = draw_images(folder / 'images')
    shutil.copyfile(photo, folder / 'photo.png')
    run(BLOCKS['the folder, 1'], folder)
    return folder


@pytest.mark.parametrize('block', list(BLOCKS)[1:])
def test_code_runs_as_printed(block: str, folder: Path) -> None:
    modules = set(re.findall(r'^(?:import|from) (\w+)', BLOCKS[block], flags=re.MULTILINE))
    missing = sorted(name for name in modules if importlib.util.find_spec(name) is None)
    if missing:
        pytest.skip(f'{", ".join(missing)} is not installed; `make clients` installs it')
    run(BLOCKS[block], folder)


def test_every_line_of_the_table_has_code_that_is_run() -> None:
    assert PAGE.count('```') == 2 * (len(BLOCKS) + 1)
    linked = set(re.findall(r'^\| \[.*?\]\(#(.*?)\)', PAGE, flags=re.MULTILINE))
    assert linked and linked == {title.lower().replace(' ', '-') for title, _ in SECTIONS[2:]}
