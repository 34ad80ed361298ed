"""A Markdown extension for mathematics between dollars, as on GitHub: MathML, which browsers show without a script."""

from __future__ import annotations

from re import Match
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert_to_element
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

_PATTERN = r'(?<![\\$\w])\$(?=\S)(?P<formula>[^$]+?)(?<=\S)\$(?!\w)'


class _Formula(InlineProcessor):
    def handleMatch(self, m: Match[str], data: str) -> tuple[Element, int, int]:
        return convert_to_element(m['formula']), m.start(0), m.end(0)


class Mathematics(Extension):
    """Turns `$...$` within a line of text into a formula."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Register the pattern after code and before backslashes, stars and underscores."""
        md.inlinePatterns.register(_Formula(_PATTERN, md), 'formula', 185)


def makeExtension(**options: object) -> Mathematics:
    """What Markdown calls for the name of this module."""
    return Mathematics(**options)
