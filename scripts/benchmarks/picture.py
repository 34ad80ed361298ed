"""The picture of a run of the benchmarks: speed, larger images, training; a panel for each that was measured."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from .core import Row

OURS, THEIRS = '#1f5fa8', '#8a8a8a'
_FIRST = 'timm eager fp32'  # has speed 1
_PALEST = 0.4  # share of the colour at the smallest batch; the largest batch has all of it
_VALUE = dict(textcoords='offset points', va='center', fontsize=8, bbox=dict(facecolor='white', linewidth=0, pad=0.6))
_LABELS = {
    'ours eager fp32': 'ours as created',
    'ours optimised fp32': 'ours optimised',
    'ours compiled fp32': 'ours compiled',
    'ours compiled int8': 'ours int8',
    'ours saved fp32': 'ours saved',
    'ours saved int8': 'ours int8 saved',
    'timm compiled fp32': 'timm compiled',
    'onnxruntime fp32': 'ONNX Runtime',
    'OpenVINO fp32': 'OpenVINO',
    'OpenVINO int8': 'OpenVINO int8',
}


def _colour(name: str, shade: float) -> tuple[float, ...]:
    """The colour of ours or of the others, mixed with white."""
    return tuple(1 - shade * (1 - part) for part in to_rgb(OURS if name.startswith('ours') else THEIRS))


def _fastest(rows: list[Row]) -> dict[str, dict[int, float]]:
    """Speed by candidate and batch, float32 first and the integers last; of OpenVINO's ways the faster one."""
    speeds: dict[str, dict[int, float]] = {}
    for row in rows:
        name, batch = row.candidate.removesuffix(' streams'), int(row.setting.split()[-1])
        if name != _FIRST:
            own = speeds.setdefault(name, {})
            own[batch] = max(row.speed, own.get(batch, 0))
    return dict(sorted(speeds.items(), key=lambda item: ('int8' in item[0], not item[0].startswith('ours'))))


def _speed(axis: Axes, rows: list[Row]) -> None:
    """A group of bars for every candidate, one for each batch size: the speed relative to timm's."""
    speeds = _fastest(rows)
    batches = sorted({int(row.setting.split()[-1]) for row in rows})
    shades = dict(zip(batches, np.linspace(1, _PALEST, len(batches))[::-1], strict=True))
    place, ticks = 0.0, []
    for name, own in speeds.items():
        for batch, speed in sorted(own.items()):
            axis.barh(place, speed, height=0.94, color=_colour(name, shades[batch]))
            axis.annotate(f'{speed:.2f}', (speed, place), (3, 0), **_VALUE)
            place += 1
        ticks.append(place - (len(own) + 1) / 2)
        place += 0.7
    axis.set_yticks(ticks, [_LABELS.get(name, name) for name in speeds])
    axis.invert_yaxis()
    axis.axvline(1, color='black', linewidth=0.8)
    axis.margins(x=0.12, y=0.01)
    axis.set_xlim(left=0)
    for batch, shade in shades.items():
        axis.bar(0, 0, color=_colour('ours', shade), label=f'batch {batch}')
    axis.legend(frameon=False, fontsize=8, loc='upper center', bbox_to_anchor=(0.5, -0.04), ncols=len(shades))
    axis.set_title(f'Speed, {_FIRST} = 1', loc='left', fontsize=10)


def _growth(axis: Axes, rows: list[Row]) -> None:
    """Lines of the time of one image over its size, with the peak memory at the ends.

    Our model as created is left out, because its line is close to that of the optimised model.
    """
    rows = [row for row in rows if row.candidate != 'ours eager fp32']
    for candidate in dict.fromkeys(row.candidate for row in rows):
        colour = _colour(candidate, 1)
        own = [row for row in rows if row.candidate == candidate]
        sizes = [int(row.setting.split()[0]) for row in own]
        axis.plot(sizes, [row.seconds for row in own], marker='o', color=colour, label=candidate, clip_on=False)
        memory = '' if own[-1].memory is None else f', {own[-1].memory / 1e3:.1f} GB'
        text = f'{own[-1].seconds:.1f} s{memory}'
        place = sizes[-1], own[-1].seconds
        axis.annotate(
            text,
            place,
            (6, -30) if candidate.startswith('ours') else (-4, 7),
            textcoords='offset points',
            ha='right',
            fontsize=8,
            color=colour,
        )
    axis.margins(y=0.12)
    axis.set_ylim(bottom=0)
    axis.set(xticks=sizes, xlabel='pixels a side', ylabel='seconds for one image')
    axis.legend(frameon=False, fontsize=8, loc='upper left')
    axis.set_title('One larger image: time and memory', loc='left', fontsize=10)


def _training(axis: Axes, rows: list[Row]) -> None:
    """Bars of the speed of our training step, relative to timm's."""
    rows = [row for row in rows if row.candidate == 'ours']
    bars = axis.barh([row.setting for row in rows], [row.ratio for row in rows], color=OURS)
    axis.bar_label(bars, [f'{row.ratio:.2f}' for row in rows], padding=2, fontsize=8)
    axis.invert_yaxis()
    axis.axvline(1, color='black', linewidth=0.8)
    axis.margins(x=0.12)
    axis.set_title('Speed of training, timm = 1', loc='left', fontsize=10)


def draw(rows: list[Row], file: Path) -> None:
    """Draw the speeds on the left, growth and training on the right, as far as measured. The CSV file has all parts."""
    measured = {name: [row for row in rows if row.part.startswith(name)] for name in ('growth', 'training')}
    # The engines' part has the same candidates of ours.
    speed = [row for row in rows if row.part == 'engines'] or [
        row for row in rows if row.part == 'inference, timm weights'
    ]
    right = [name for name, own in measured.items() if own]
    left = ['speed'] if speed else []
    if not left and not right:
        return
    mosaic = [[*left, name] for name in right] or [left]
    size = (4.8 * len(left) + 4.0 * bool(right), 6.4 if speed else 3.2 * len(right))
    figure, axes = plt.subplot_mosaic(
        mosaic, figsize=size, width_ratios=[4.8, 4.0][-len(mosaic[0]) :], layout='constrained'
    )
    for name, panel in _PANELS.items():
        if name in axes:
            panel(axes[name], speed if name == 'speed' else measured[name])
            axes[name].spines[['top', 'right']].set_visible(False)
            axes[name].tick_params(labelsize=8)
    figure.savefig(file, dpi=150)
    plt.close(figure)


_PANELS: dict[str, Callable[[Axes, list[Row]], None]] = {'speed': _speed, 'growth': _growth, 'training': _training}
