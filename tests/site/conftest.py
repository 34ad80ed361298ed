"""The built site, a server for it, and Debian's chromium; what is missing skips the tests with a reason."""

from __future__ import annotations

import functools
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from paths import ROOT
from site_build import Built, build

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope='session')
def site(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The site of this repository."""
    return build(ROOT, tmp_path_factory.mktemp('site'))


@pytest.fixture(scope='session')
def address(site: Built) -> Iterator[str]:
    """The address of the site on a server of this machine."""
    assert site.code == 0, site.output
    server = ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(SimpleHTTPRequestHandler, directory=site.folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


@pytest.fixture(scope='session')
def browser() -> Iterator[Browser]:
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
    file = Path(os.environ.get('AXE_CORE', ROOT / 'node_modules' / 'axe-core' / 'axe.min.js'))
    if not file.is_file():
        pytest.skip('needs axe-core: npm install axe-core, or AXE_CORE=/path/to/axe.min.js')
    return file.read_text(encoding='utf-8')
