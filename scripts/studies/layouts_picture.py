"""The result of layouts.py as a picture and as a table."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
from scipy.stats import t as student


class Epoch(NamedTuple):
    """A row of the CSV file: accuracies in percent after an epoch, in evaluation mode."""

    layout: str
    rel_attn: str
    seed: int
    epoch: int
    loss: float
    train: float
    held_out: float


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of Student's 95 % confidence interval of the mean."""
    if len(values) < 2:
        return values[0], 0.0
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), half


def _groups(rows: list[Epoch]) -> dict[str, dict[str, list[Epoch]]]:
    """The two comparisons: by title, the rows by layout or by form."""
    groups: dict[str, dict[str, list[Epoch]]] = {'layouts': {}, 'rel_attn of CCTT': {}}
    for row in rows:
        if row.rel_attn == 'pre':
            groups['layouts'].setdefault(row.layout, []).append(row)
        if row.layout == 'CCTT':
            groups['rel_attn of CCTT'].setdefault(row.rel_attn, []).append(row)
    return groups


def draw(rows: list[Epoch], file: Path) -> None:
    """Draw the held-out accuracy by epoch, a panel for each comparison; bands are confidence intervals."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout='constrained', sharey=True)
    for axis, (title, group) in zip(axes, _groups(rows).items(), strict=True):
        for name, own in group.items():
            epochs = sorted({row.epoch for row in own})
            points = [interval([row.held_out for row in own if row.epoch == epoch]) for epoch in epochs]
            low, middle, high = zip(*((mean - half, mean, mean + half) for mean, half in points), strict=True)
            (line,) = axis.plot([epoch + 1 for epoch in epochs], middle, label=name)
            axis.fill_between(line.get_xdata(), low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set(title=f'{title}: held-out accuracy, %', xlabel='epoch', ylim=(0, 101))
        axis.set_xticks([1, *range(5, len(epochs) + 1, 5)])
        axis.legend(loc='lower right')
        axis.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


def summary(rows: list[Epoch]) -> str:
    """A Markdown table of the last epoch. The last column compares with C-C-T-T on the same images, seed by seed."""
    lines = ['| comparison | | training % | held out % | gap | held out, against CCTT |']
    lines.append('|---|---|---:|---:|---:|---:|')
    last = [row for row in rows if row.epoch == max(row.epoch for row in rows)]
    reference = {r.seed: r.held_out for r in last if (r.layout, r.rel_attn) == ('CCTT', 'pre')}
    for title, group in _groups(last).items():
        for name, own in group.items():
            values = (
                [r.train for r in own],
                [r.held_out for r in own],
                [r.train - r.held_out for r in own],
                [r.held_out - reference[r.seed] for r in own],
            )
            cells = ['{:.2f} ± {:.2f}'.format(*interval(each)) for each in values]
            lines.append(f'| {title} | {name} | {" | ".join(cells)} |')
    return '\n'.join(lines)
