"""A hook of the site: every public name of the package is on the page of the API, with its docstring."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import griffe

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

SOURCES = Path(__file__).parents[2] / 'src'
_log = logging.getLogger('mkdocs.hooks.api')


def undocumented(sources: Path = SOURCES) -> Iterator[str]:
    """The public names of the package, and the public methods and properties of its classes, that have no docstring."""
    package = griffe.load('coatnet_zoo', search_paths=[sources])
    for name in package.exports:
        found = package[name].final_target
        inside = [m for m in found.members.values() if m.is_function or 'property' in m.labels] if found.is_class else []
        for each in (found, *(m for m in inside if not m.name.startswith('_'))):
            if not each.has_docstring:
                yield each.path


def on_page_content(html: str, page: Page, **_) -> None:
    """Warn about public names without docstrings, and about those that the page of the API does not show."""
    if page.file.src_uri != 'api.md':
        return
    for name in undocumented():
        _log.warning(f'{name} has no docstring.')
    for name in griffe.load('coatnet_zoo', search_paths=[SOURCES]).exports:
        if not re.search(rf'id="coatnet_zoo\.{name}"', html):
            _log.warning(f'The page of the API does not show coatnet_zoo.{name}.')
