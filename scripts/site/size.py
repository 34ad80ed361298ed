"""A hook of the site: the theme's source maps, a quarter of the site, are left out; only those who debug it read them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig


def on_post_build(config: MkDocsConfig) -> None:
    """Remove the source maps."""
    for file in Path(config.site_dir).rglob('*.map'):
        file.unlink()
