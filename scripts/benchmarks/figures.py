"""The tables of docs/performance.md: the text between `<!-- figures: PART -->` and `<!-- end of figures -->`."""

import re
from pathlib import Path

from .core import Row


def _time(seconds: float) -> str:
    return f'{seconds:.1f} s' if seconds >= 10 else f'{1e3 * seconds:.0f} ms'


def _cell(row: Row) -> str:
    ratio = '' if row.candidate == row.reference else f', **{row.ratio:.2f}**'
    memory = '' if row.memory is None else f', {row.memory:.0f} MB'
    spread = f'{_time(row.seconds)} ± {100 * row.spread:.0f} %'.replace(' ', '\N{NO-BREAK SPACE}')
    return f'{spread}{ratio}{memory}'


_FEW = ', a few dozen images'
# By engine: the format that it is exported to, what it needs, and when to choose it.
ENGINES = {
    'timm': ('', 'timm alone', 'for comparison: its own model, in eager mode'),
    'as created': ('', 'nothing', 'occasional inference, training, any image size'),
    'optimised': ('', '`optimize_for_inference`', 'many images in a program that has torch'),
    'optimised, `PASSIVE`': ('', '`OMP_WAIT_POLICY=PASSIVE`', 'the same, where other programs use the cores'),
    'OpenVINO': ('openvino', '`[openvino]`', 'a server or a script on x86: fast for one image, and on busy cores'),
    'OpenVINO, 8-bit': ('openvino', f'`[openvino]`{_FEW}', 'throughput counts more than the last tenths of accuracy'),
    'ONNX Runtime': ('onnx', '`[onnx]`', 'where OpenVINO does not run; programs in other languages'),
    'ONNX Runtime, 8-bit': ('onnx', f'`[onnx]`{_FEW}', 'the smallest file that ONNX programs read'),
    'pt2': ('pt2', 'a C++ compiler', 'C++ programs with libtorch, without Python'),
    'matmul peak': ('', '', 'for comparison: the same multiply-adds as one large matrix product'),
}


def _engines(rows: list[Row]) -> str:
    """The table by which an engine is chosen."""
    found = {(row.candidate, row.setting): row for row in rows}
    *settings, last = dict.fromkeys(row.setting for row in rows)
    lines = [f'| | {" | ".join(settings)} | first answer | on disk | needs | choose it for |']
    lines.append('|---|' + '---:|' * (len(settings) + 2) + '---|---|')
    for name in dict.fromkeys(row.candidate for row in rows):
        cells = [_cell(found[name, setting]) for setting in settings]
        answer = found.get((name, last))
        cells += [_time(answer.seconds), f'{answer.memory:.0f} MB'] if answer else ['', '']
        lines.append(f'| {" | ".join([name, *cells, *ENGINES[name][1:]])} |')
    lines.append('| `compile=True` on a GPU | not measured yet | | | | | a GPU, `optimize_for_inference` | any GPU |')
    return '\n'.join(lines)


def table(rows: list[Row]) -> str:
    """A Markdown table of one part, with a line for every candidate and a column for every setting."""
    if rows[0].part == 'engines':
        return _engines(rows)
    cells = {(row.candidate, row.setting): _cell(row) for row in rows}
    candidates, settings = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    lines = [f'| | {" | ".join(settings)} |', '|---|' + '---:|' * len(settings)]
    lines += [f'| {name} | {" | ".join(cells.get((name, s), "") for s in settings)} |' for name in candidates]
    return '\n'.join(lines)


def write_tables(rows: list[Row], page: Path) -> None:
    """Write the tables of all parts that were measured into a Markdown file with marks."""
    text = page.read_text(encoding='utf-8')
    for part in dict.fromkeys(row.part for row in rows):
        new = table([row for row in rows if row.part == part])
        marks = rf'(?<=<!-- figures: {part} -->\n).*?(?=<!-- end of figures -->)'
        text = re.sub(marks, lambda _, new=new: f'\n{new}\n\n', text, count=1, flags=re.DOTALL)
    page.write_text(text, encoding='utf-8')
