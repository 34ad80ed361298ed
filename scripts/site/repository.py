"""A hook of the site: the README as first page, links as on GitHub, and fences with words for the tests."""

import logging
import posixpath
import re
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
FIRST = 'index.md'  # the page of README.md; all other pages are in docs/
_log = logging.getLogger('mkdocs.hooks.repository')


class _Links(Extension):
    """Turns links that are right on GitHub into links to pages: the text gets their title, links to files go."""

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
                if target is None:
                    element.tag = 'span'
                    element.attrib.clear()
                    continue
                element.set(name, target)
                if posixpath.basename(element.text or '') == posixpath.basename(urlsplit(link).path):
                    element.text = self.titles.get(urlsplit(target).path, element.text)

    def _target(self, link: str) -> str | None:
        parts = urlsplit(link)
        if parts.scheme or not parts.path:
            return link
        path = posixpath.normpath(posixpath.join(posixpath.dirname(self.path), parts.path))
        if not (ROOT / path).exists():
            _log.warning(f'{self.path} has a link to {parts.path!r}, which does not exist.')
        page = FIRST if path == 'README.md' else path.removeprefix('docs/')
        return parts._replace(path=page).geturl() if page != path else None


_links = _Links()


def on_config(config: MkDocsConfig) -> None:
    """Have links turned on every page."""
    _links.titles = {page: title for item in config.nav for title, page in item.items()}
    if _links not in config.markdown_extensions:
        config.markdown_extensions.append(_links)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the README, which is not in docs/."""
    files.append(File.generated(config, FIRST, abs_src_path=str(ROOT / 'README.md')))


def on_page_markdown(markdown: str, page: Page, **_) -> str:
    """Leave out the words after the language of a fence, and show what GitHub does not: the API."""
    _links.path = 'README.md' if page.file.src_uri == FIRST else f'docs/{page.file.src_uri}'
    markdown = re.sub('<!-- (:::.*?)-->', r'\1', markdown, flags=re.DOTALL)
    return re.sub(r'^(```\w+) .*$', r'\1', markdown, flags=re.MULTILINE)
