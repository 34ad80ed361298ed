"""The picture of a run of the benchmarks: inference, larger images, training; a panel for each that was measured."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .core import Row

OURS, THEIRS = '#1f5fa8', '#9a9a9a'


def _inference(axis: Axes, rows: list[Row]) -> None:
    """A dot for every candidate and batch size, at its speed relative to the first candidate."""
    rows = [row for row in rows if row.part == rows[0].part]
    names = list(dict.fromkeys(row.candidate for row in rows))
    settings = sorted({row.setting for row in rows}, key=lambda setting: int(setting.split()[-1]))
    areas = {setting: 25 + 45 * i for i, setting in enumerate(settings)}
    for place, name in enumerate(names):
        own = [row for row in rows if row.candidate == name]
        speeds, colour = [row.speed for row in own], OURS if name.startswith('ours') else THEIRS
        axis.plot((min(speeds), max(speeds)), (place, place), color=colour, linewidth=2)
        axis.scatter(speeds, [place] * len(own), [areas[row.setting] for row in own], color=colour)
        middle = sorted(own, key=lambda row: settings.index(row.setting))[len(own) // 2].speed
        axis.annotate(f'{middle:.2f}', (max(speeds), place), (9, -3), textcoords='offset points', fontsize=8)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.axvline(1, color='black', linewidth=0.8, zorder=0)
    axis.margins(x=0.12)
    for setting, area in areas.items():
        axis.scatter([], [], area, color=OURS, label=setting)
    axis.legend(frameon=False, fontsize=8, loc='upper right')
    axis.set_title(f'Speed, {names[0]} = 1; number: {settings[len(settings) // 2]}', loc='left', fontsize=10)


def _growth(axis: Axes, rows: list[Row]) -> None:
    """Lines of the time of one image over its size, with the peak memory at the ends."""
    for candidate, colour in zip(dict.fromkeys(row.candidate for row in rows), (THEIRS, OURS), strict=True):
        own = [row for row in rows if row.candidate == candidate]
        sizes = [int(row.setting.split()[0]) for row in own]
        axis.plot(sizes, [row.seconds for row in own], marker='o', color=colour, label=candidate)
        memory = '' if own[-1].memory is None else f', {own[-1].memory / 1e3:.1f} GB'
        text = f'{own[-1].seconds:.1f} s{memory}'
        place = sizes[-1], own[-1].seconds
        axis.annotate(text, place, (-4, 7), textcoords='offset points', ha='right', fontsize=8, color=colour)
    axis.set(xticks=sizes, xlabel='pixels a side', ylabel='seconds for one image')
    axis.legend(frameon=False, fontsize=8, loc='upper left')
    axis.set_title('Larger images: time and memory of a process', loc='left', fontsize=10)


def _training(axis: Axes, rows: list[Row]) -> None:
    """Bars of the speed of our training step, relative to timm's."""
    rows = [row for row in rows if row.candidate == 'ours']
    bars = axis.barh([row.setting for row in rows], [row.ratio for row in rows], color=OURS)
    axis.bar_label(bars, [f'{row.ratio:.2f}' for row in rows], padding=2, fontsize=8)
    axis.invert_yaxis()
    axis.axvline(1, color='black', linewidth=0.8)
    axis.margins(x=0.12)
    axis.set_title('Speed of training, timm = 1', loc='left', fontsize=10)


# By the first word of a part; the shares are those of the width.
_PANELS: dict[str, tuple[float, Callable[[Axes, list[Row]], None]]] = {
    'inference': (1.2, _inference),
    'growth': (1.0, _growth),
    'training': (0.7, _training),
}


def draw(rows: list[Row], file: Path) -> None:
    """Draw the panels whose parts were measured, side by side. The CSV file has all parts."""
    panels = [
        (width, panel, measured)
        for name, (width, panel) in _PANELS.items()
        if (measured := [row for row in rows if row.part.startswith(name)])
    ]
    if not panels:
        return
    widths = [width for width, _, _ in panels]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.4 * sum(widths), 4.6), width_ratios=widths, squeeze=False, layout='constrained'
    )
    for axis, (_, panel, measured) in zip(axes[0], panels, strict=True):
        panel(axis, measured)
        axis.spines[['top', 'right']].set_visible(False)
        axis.tick_params(labelsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)
