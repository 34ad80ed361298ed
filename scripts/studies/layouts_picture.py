"""The results of layouts.py: the CSV file, a picture and a table."""

import csv
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
from scipy.stats import t as student


class Run(NamedTuple):
    """A network of the study."""

    data: str
    part: str  # recipe, scratch, or transfer from Fashion-MNIST
    layout: str
    rel_attn: str
    width: int
    images: int
    seed: int
    lr: float


class Epoch(NamedTuple):
    """A row of the CSV file, after the fields of `Run`. Only the last epoch is measured, without augmentation."""

    run: Run
    epoch: int
    loss: float  # mean over the epoch, with augmentation
    train_loss: float | None = None
    train: float | None = None  # top-1 in percent
    held_out: float | None = None


def read(file: Path) -> list[Epoch]:
    """The rows of a CSV file; none if it does not exist."""
    rows = []
    for line in csv.DictReader(file.read_text().splitlines() if file.exists() else []):
        run = Run(*(kind(line[name]) for name, kind in Run.__annotations__.items()))
        values = [float(line[name]) if line[name] else None for name in Epoch._fields[2:]]
        rows.append(Epoch(run, int(line['epoch']), *values))
    return rows


def write(rows: Iterable[Epoch], file: Path) -> None:
    """Write a CSV file, in one step."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix('.new')
    with new.open('w', newline='') as f:
        table = [(*Run._fields, *Epoch._fields[1:]), *((*row.run, *row[1:]) for row in rows)]
        csv.writer(f, lineterminator='\n').writerows(table)
    new.replace(file)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of Student's 95 % confidence interval of the mean; NaN for one value."""
    if len(values) < 2:
        return values[0], float('nan')
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), half


def draw(rows: Sequence[Epoch], names: Sequence[str], file: Path) -> None:
    """Draw the held-out accuracy and the training loss over the number of images; bands are confidence intervals."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout='constrained')
    shown = (rows[0].run.data, 'scratch', 'pre', 1)  # and not the digits of the transfer
    rows = [row for row in rows if row.run[:2] + row.run[3:5] == shown and row.held_out is not None]
    titles = {'held_out': 'held-out accuracy, %', 'train_loss': 'loss of the training images, without augmentation'}
    for axis, measure in zip(axes, titles, strict=True):
        for name in names:
            own = [row for row in rows if row.run.layout == name]
            sizes = sorted({row.run.images for row in own})
            points = [interval([getattr(row, measure) for row in own if row.run.images == size]) for size in sizes]
            (line,) = axis.plot(sizes, [mean for mean, _ in points], marker='o', markersize=4, label=name)
            bounds = [[mean + sign * half for mean, half in points] for sign in (-1, 1)]
            axis.fill_between(sizes, *bounds, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set(title=titles[measure], xscale='log', xlabel='training images')
        axis.set_xticks(sizes, [f'{size:,}' for size in sizes])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(handles=axes[0].lines, loc='outside lower center', ncols=len(names))
    figure.savefig(file, dpi=110)


def summary(rows: Sequence[Epoch]) -> str:
    """A Markdown table of the last epochs. The last column compares with C-C-T-T of the same seed."""
    lines = ['| images | network | seeds | training loss | training % | held out % | gap | held out, against CCTT |']
    lines.append('|---|---|---:|---:|---:|---:|---:|---:|')
    last = {row.run: row for row in rows if row.held_out is not None and row.run.part != 'recipe'}
    for key in dict.fromkeys(run._replace(seed=0) for run in last):
        own = [row for run, row in last.items() if run._replace(seed=0) == key]
        values = [(r.train_loss, r.train, r.held_out, r.train - r.held_out) for r in own]
        others = [last.get(r.run._replace(layout='CCTT', rel_attn='pre')) for r in own]
        against = [r.held_out - other.held_out for r, other in zip(own, others, strict=True) if other]
        cell = '{:.2f} ± {:.2f}' if len(own) > 1 else '{:.2f}'
        cells = [cell.format(*interval(each)) for each in (*zip(*values, strict=True), against) if each]
        title = f'{key.images:,} {key.data} {key.part}' + ' wide' * (key.width - 1)
        lines.append(f'| {title} | {key.layout} {key.rel_attn} | {len(own)} | {" | ".join(cells)} |')
    return '\n'.join(lines)
