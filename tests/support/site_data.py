"""What the site is made from: the rows of its catalogue and the pages of its navigation."""

import re

from paths import ROOT

from scripts.site.catalogue import rows

ROWS = rows()
NAV = re.findall(r'^  - [^:]+: (\S+\.md)$', (ROOT / 'mkdocs.yml').read_text(encoding='utf-8'), flags=re.MULTILINE)
