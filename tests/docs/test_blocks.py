"""Every block of Python and shell of the README and the docs is run as it is printed, page by page, in order.

The word after the language says what a block needs; GitHub does not show the word.
"""

import re
from collections import Counter
from pathlib import Path

import pytest
from empty_weights import empty_weights
from hub_server import HubServer
from pages import Block, blocks, lay_out, lay_out_own_files, run
from paths import ROOT

from coatnet_zoo.registry import WEIGHTS

PAGES = ['README.md', *sorted(f'docs/{p.name}' for p in (ROOT / 'docs').glob('*.md')), 'CONTRIBUTING.md']
# These pages have tests of their own, which need other software, or more than to run a block.
ELSEWHERE = {
    'CONTRIBUTING.md': 'test_contributing.py',
    'docs/ecosystem.md': '../clients/test_page.py',
    'docs/export.md': '../export/test_page.py',
    'docs/finetuning.md': 'test_finetuning.py',
    'docs/training.md': 'test_walkthrough.py',
}
IN_A_CLONE = {'docs/migrating.md'}  # the other pages need no more than the package and the reader's own files
NOT_RUN = {
    'install': 'installs the package, or runs all tests',
    'long': 'takes more than a minute; tests/scripts run the same code on less',
}
TEXT = {'text', 'bibtex'}
BLOCKS = [b for page in PAGES if page not in ELSEWHERE for b in blocks(page) if b.language not in TEXT]


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By page: the folder in which the reader of the page works."""
    pages = {b.page: lay_out if b.page in IN_A_CLONE else lay_out_own_files for b in BLOCKS}
    return {page: make(tmp_path_factory.mktemp('page')) for page, make in pages.items()}


def serve(hub: HubServer, code: str, folder: Path) -> None:
    """Publish the weights of every name that a block has."""
    for name in set(re.findall(r'coatnet_\w+(?:\.\w+)?', code)):
        full = name if name in WEIGHTS else next((n for n in WEIGHTS if n.startswith(f'{name}.')), None)
        if full and WEIGHTS[full].hf_hub_id:
            hub.add_repo(WEIGHTS[full].hf_hub_id, {'model.safetensors': empty_weights(full, folder)})


@pytest.mark.parametrize('block', BLOCKS, ids=str)
def test_a_block_runs_as_it_is_printed(block: Block, folders: dict[str, Path], hub: HubServer, tmp_path: Path) -> None:
    for word in block.words:
        if word in NOT_RUN:
            pytest.skip(NOT_RUN[word])
        if word == 'hub':
            serve(hub, block.code, tmp_path)
        else:
            pytest.importorskip(word.removeprefix('needs='), reason=f'needs {word.removeprefix("needs=")}')
    run(block, folders[block.page])


def test_every_block_says_what_it_is() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert block.language in {'python', 'sh'} | TEXT, f'{block} has no language'
    words = Counter(word for block in BLOCKS for word in block.words if '=' not in word)
    assert set(words) <= {'hub'} | set(NOT_RUN)
    assert len(BLOCKS) - sum(words[word] for word in NOT_RUN) >= 15


def test_the_readme_is_short() -> None:
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert len(text.splitlines()) <= 110
    first = next(b for b in blocks('README.md') if b.language == 'python')
    assert len([line for line in first.code.splitlines() if line.strip()]) <= 10
