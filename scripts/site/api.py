"""A hook of the site: every public name of the package is on the page of the API, with its docstring."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import griffe

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

SOURCES = Path(__file__).parents[2] / 'src'
_log = logging.getLogger('mkdocs.hooks.api')


def undocumented(package: griffe.Module) -> Iterator[str]:
    """The public names of a package, and the public methods and properties of its classes, without docstrings."""
    for name in package.exports:
        found = package[name].final_target
        members = found.members.values() if found.is_class else ()
        own = [m for m in members if (m.is_function or 'property' in m.labels) and not m.name.startswith('_')]
        yield from (each.path for each in (found, *own) if not each.has_docstring)


def on_page_content(html: str, page: Page, **_) -> None:
    """Warn about public names without docstrings, and about those that the page of the API does not show."""
    if page.file.src_uri != 'api.md':
        return
    package = griffe.load('coatnet_zoo', search_paths=[SOURCES])
    for name in undocumented(package):
        _log.warning(f'{name} has no docstring.')
    for name in package.exports:
        if f'id="coatnet_zoo.{name}"' not in html:
            _log.warning(f'The page of the API does not show coatnet_zoo.{name}.')
