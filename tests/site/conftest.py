"""The built site, a server for it, and Debian's chromium; what is missing skips the tests with a reason."""

import functools
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from paths import ROOT

# What the generator reads, and what links of pages lead to.
READ = ('docs', 'src', 'scripts', 'mkdocs.yml', 'README.md', 'CHANGELOG.md', 'CONTRIBUTING.md')
LINKED = ('LICENSE', 'weights', 'tests')


@dataclass
class Built:
    """A built site: its folder, the seconds that the build took, its exit code and what it said."""

    folder: Path
    seconds: float
    code: int
    said: str


def _build(repository: Path, folder: Path) -> Built:
    pytest.importorskip('material', reason='needs the extra docs')
    pytest.importorskip('mkdocstrings_handlers.python', reason='needs the extra docs')
    start = time.monotonic()
    command = [sys.executable, '-m', 'mkdocs', 'build', '--site-dir', str(folder)]
    done = subprocess.run(command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return Built(folder, time.monotonic() - start, done.returncode, done.stdout)


@pytest.fixture(scope='session')
def site(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The site of this repository."""
    return _build(ROOT, tmp_path_factory.mktemp('site'))


@pytest.fixture
def build_changed(tmp_path: Path) -> Callable[[Callable[[Path], object]], Built]:
    """A function that changes a copy of the repository and builds its site."""

    def build(change: Callable[[Path], object]) -> Built:
        copy = tmp_path / 'copy'
        copy.mkdir()
        for name in READ:
            put = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            put(ROOT / name, copy / name)
        for name in LINKED:
            (copy / name).symlink_to(ROOT / name)
        change(copy)
        return _build(copy, tmp_path / 'site')

    return build


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope='session')
def address(site: Built) -> Iterator[str]:
    """The address of the site on a server of this machine."""
    assert site.code == 0, site.said
    server = ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(_Quiet, directory=site.folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


@pytest.fixture(scope='session')
def browser() -> Iterator['Browser']:  # noqa: F821
    """Debian's chromium without a window."""
    api = pytest.importorskip('playwright.sync_api', reason='needs playwright')
    chromium = shutil.which('chromium')
    if chromium is None:
        pytest.skip('needs chromium')
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture(scope='session')
def axe() -> str:
    """The program that looks for what disabled people cannot use."""
    places = [os.environ.get('AXE_CORE', ''), ROOT / 'node_modules' / 'axe-core' / 'axe.min.js']
    for place in filter(None, places):
        if Path(place).is_file():
            return Path(place).read_text(encoding='utf-8')
    pytest.skip('needs axe-core: npm install axe-core, or AXE_CORE=/path/to/axe.min.js')
