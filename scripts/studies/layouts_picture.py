"""The result of layouts.py as a picture and as a table."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy.stats import t as student

CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of Student's confidence interval of the mean."""
    if len(values) < 2:
        return values[0], 0.0
    half = student.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), half


def _curve(axis: Axes, rows: list[Any], what: str, label: str, colour: str) -> None:
    epochs = sorted({row.epoch for row in rows})
    points = [interval([getattr(row, what) for row in rows if row.epoch == epoch]) for epoch in epochs]
    numbers = [epoch + 1 for epoch in epochs]
    axis.plot(numbers, [mean for mean, _ in points], color=colour, label=label, linewidth=1.4)
    low, high = [mean - half for mean, half in points], [mean + half for mean, half in points]
    axis.fill_between(numbers, low, high, color=colour, alpha=0.15, linewidth=0)


def _groups(rows: list[Any]) -> list[tuple[str, dict[str, list[Any]]]]:
    """The two comparisons: the title, and the rows by layout or by form."""
    layouts: dict[str, list[Any]] = {}
    forms: dict[str, list[Any]] = {}
    for row in rows:
        if row.rel_attn == 'pre':
            layouts.setdefault(row.layout, []).append(row)
        if row.layout == 'CCTT':
            forms.setdefault(row.rel_attn, []).append(row)
    return [('layouts', layouts), ('rel_attn of CCTT', forms)]


def draw(rows: list[Any], file: Path) -> None:
    """Draw a row of panels for each comparison: held-out accuracy, training accuracy, and both after the last epoch."""
    figure, axes = plt.subplots(2, 3, figsize=(14, 8), layout='constrained')
    for line, (title, group) in zip(axes, _groups(rows), strict=True):
        for axis, what in zip(line, ('held_out', 'train'), strict=False):
            for i, (name, own) in enumerate(group.items()):
                _curve(axis, own, what, name, f'C{i}')
            axis.set_title(f'{title}: {"held-out" if what == "held_out" else "training"} accuracy, %', loc='left')
            axis.set_xlabel('epoch')
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.legend(loc='lower right')
            axis.grid(alpha=0.3)
            ends = [interval([getattr(r, what) for r in _at_end(own)])[0] for own in group.values()]
            axis.set_ylim(max(0, min(ends) - 25), 101)
        for i, own in enumerate(group.values()):
            for what, marker, shift in (('train', 's', -0.1), ('held_out', 'o', 0.1)):
                mean, half = interval([getattr(r, what) for r in _at_end(own)])
                line[2].errorbar(i + shift, mean, half, fmt=marker, color=f'C{i}', capsize=4)
        line[2].set_xticks(range(len(group)), list(group))
        line[2].set_title('last epoch, %: squares training, circles held out', loc='left')
        line[2].grid(alpha=0.3)
    seeds = len({row.seed for row in rows})
    figure.suptitle(f'means of {seeds} seeds with {100 * CONFIDENCE:.0f} % confidence intervals')
    figure.savefig(file, dpi=110)


def _at_end(rows: list[Any]) -> list[Any]:
    """The rows of the last epoch."""
    last = max(row.epoch for row in rows)
    return [row for row in rows if row.epoch == last]


def summary(rows: list[Any]) -> str:
    """A Markdown table of the last epoch. The last column compares with C-C-T-T on the same images, seed by seed."""
    lines = [
        '| comparison | | training % | held out % | gap | held out, against CCTT |',
        '|---|---|---:|---:|---:|---:|',
    ]
    reference = {r.seed: r for r in _at_end(rows) if (r.layout, r.rel_attn) == ('CCTT', 'pre')}
    for title, group in _groups(rows):
        for name, own in group.items():
            last = _at_end(own)
            values = (
                [r.train for r in last],
                [r.held_out for r in last],
                [r.train - r.held_out for r in last],
                [r.held_out - reference[r.seed].held_out for r in last],
            )
            cells = ['{:.2f} ± {:.2f}'.format(*interval(each)) for each in values]
            lines.append(f'| {title} | {name} | {" | ".join(cells)} |')
    return '\n'.join(lines)
