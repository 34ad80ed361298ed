"""The tables of docs/performance.md: the text between `<!-- figures: PART -->` and `<!-- end of figures -->`."""

import re
from pathlib import Path

from .core import Row


def _time(seconds: float) -> str:
    return f'{seconds:.1f} s' if seconds >= 10 else f'{1e3 * seconds:.0f} ms'


def _cell(row: Row) -> str:
    ratio = '' if row.candidate == row.reference else f', **{row.ratio:.2f}**'
    memory = '' if row.memory is None else f', {row.memory:.0f} MB'
    return f'{_time(row.seconds)} ± {100 * row.spread:.0f} %{ratio}{memory}'


def table(rows: list[Row]) -> str:
    """A Markdown table of one part, with a line for every candidate and a column for every setting."""
    cells = {(row.candidate, row.setting): _cell(row) for row in rows}
    candidates, settings = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    lines = [f'| | {" | ".join(settings)} |', '|---|' + '---:|' * len(settings)]
    lines += [f'| {name} | {" | ".join(cells.get((name, s), "") for s in settings)} |' for name in candidates]
    return '\n'.join(lines)


def write_tables(rows: list[Row], page: Path) -> None:
    """Write the tables of all parts that were measured into a Markdown file with marks, if there is one."""
    if not page.exists():
        return
    text = page.read_text(encoding='utf-8')
    for part in dict.fromkeys(row.part for row in rows):
        new = table([row for row in rows if row.part == part])
        marks = rf'(?<=<!-- figures: {part} -->\n).*?(?=<!-- end of figures -->)'
        text = re.sub(marks, lambda _, new=new: f'\n{new}\n\n', text, flags=re.DOTALL)
    page.write_text(text, encoding='utf-8')
