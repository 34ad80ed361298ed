"""A hook of the site: pages from the top of the repository, links as on GitHub, and fences with words for the tests."""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor
from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
# Pages of the site by their paths in the repository. The other pages are in docs/.
AT_THE_TOP = {'README.md': 'index.md', 'CHANGELOG.md': 'CHANGELOG.md', 'CONTRIBUTING.md': 'CONTRIBUTING.md'}
_PATHS = {page: path for path, page in AT_THE_TOP.items()}
_log = logging.getLogger('mkdocs.hooks.repository')


class _Links(Extension):
    """Turns the relative links of a page, which are right on GitHub, into links to pages of the site or to GitHub.

    A link whose text is the name of a file gets the title of the page.
    """

    repository = ''
    titles: dict[str, str]  # by page
    path = ''  # of the current page, in the repository

    def extendMarkdown(self, md: Markdown) -> None:
        processor = Treeprocessor(md)
        processor.run = self._turn
        md.treeprocessors.register(processor, 'repository', 5)  # before mkdocs turns names of pages into addresses

    def _turn(self, root: Element) -> None:
        for element in root.iter():
            for name in {'href', 'src'} & set(element.keys()):
                link = element.get(name)
                target = self._target(link)
                element.set(name, target)
                if posixpath.basename(element.text or '') == posixpath.basename(urlsplit(link).path):
                    element.text = self.titles.get(urlsplit(target).path, element.text)

    def _target(self, link: str) -> str:
        parts = urlsplit(link)
        if parts.scheme or not parts.path:
            return link
        path = posixpath.normpath(posixpath.join(posixpath.dirname(self.path), parts.path))
        if not (ROOT / path).exists():
            _log.warning(f'{self.path} has a link to {parts.path!r}, which does not exist.')
        anchor = f'#{parts.fragment}' if parts.fragment else ''
        if path in AT_THE_TOP or path.startswith('docs/'):
            return AT_THE_TOP.get(path, path.removeprefix('docs/')) + anchor
        return f'{self.repository}/blob/main/{path}{anchor}'


_links = _Links()


def on_config(config: MkDocsConfig) -> None:
    """Have links turned on every page."""
    _links.repository = config.repo_url
    _links.titles = {page: title for item in config.nav for title, page in item.items()}
    if _links not in config.markdown_extensions:
        config.markdown_extensions.append(_links)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that are not in docs/."""
    for path, page in AT_THE_TOP.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))


def on_post_build(config: MkDocsConfig) -> None:
    """Remove the source maps of the theme, a quarter of the site, which only debuggers read."""
    for file in Path(config.site_dir).rglob('*.map'):
        file.unlink()


def on_page_markdown(markdown: str, page: Page, **_) -> str:
    """Leave out the words after the language of a fence, which GitHub does not show either."""
    _links.path = _PATHS.get(page.file.src_uri, f'docs/{page.file.src_uri}')
    return re.sub(r'^(```\w+) .*$', r'\1', markdown, flags=re.MULTILINE)
