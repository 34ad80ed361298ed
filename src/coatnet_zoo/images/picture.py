"""Drawing an explanation: the image, the evidence on it, the classes, and relative position tables below.

Drawing needs the extra `explain` (matplotlib). No window opens, and the state of pyplot does not change.
"""

import importlib
import textwrap
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ExplainError, first_line, shown
from .explain import BiasTable, Explanation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NO_TABLES = 'The model has no relative position bias, so there are no tables.'
_LONGEST_LABEL = 28


def require_matplotlib(module: str = 'figure') -> ModuleType:
    """Import a module of matplotlib.

    Raises:
        ExplainError: If matplotlib cannot be imported.
    """
    try:
        return importlib.import_module(f'matplotlib.{module}')
    except ImportError as e:
        raise ExplainError(f"A picture needs matplotlib: pip install 'coatnet-zoo[explain]' ({first_line(e)}).") from e


def draw_explanation(explanation: Explanation, title: str) -> 'Figure':
    """Draw an explanation.

    Args:
        explanation: From `explain_image`.
        title: The title of the picture.

    Returns:
        A figure 12 inches wide: the image, the evidence and the classes, and below them the tables, if
            there are tables.

    Raises:
        ExplainError: If matplotlib is not installed.
    """
    tables = explanation.tables
    figure = require_matplotlib().Figure(figsize=(12, 8 if tables else 4.7), layout='constrained')
    figure.suptitle(textwrap.fill(shown(title), 100), fontsize='x-large', parse_math=False)
    heights = (1.3, 1) if tables else (1,)
    rows = np.atleast_1d(figure.subfigures(len(heights), 1, hspace=0.05, height_ratios=heights))
    image, evidence, classes = rows[0].subplots(1, 3, width_ratios=(1, 1.3, 0.85))
    image.imshow(explanation.image, cmap='gray', vmin=0, vmax=1)
    image.set_axis_off()
    height, width = explanation.image.shape[:2]
    image.set_title(f'What the network saw\n{width}x{height} pixels')
    _draw_evidence(evidence, explanation)
    _draw_classes(classes, explanation)
    if not tables:
        rows[0].supxlabel(NO_TABLES, fontsize='medium')
        return figure
    rows[1].suptitle('Learned relative position bias, of each stage the head whose values differ most')
    for axes, table in zip(rows[1].subplots(1, len(tables), squeeze=False)[0], tables, strict=True):
        _draw_table(axes, table)
    return figure


def _draw_evidence(axes: 'Axes', explanation: Explanation) -> None:
    colors = require_matplotlib('colors')
    height, width = explanation.image.shape[:2]
    grey = explanation.image if explanation.image.ndim == 2 else explanation.image.mean(axis=2)
    # The grey image is pale, so that the colours on the image match the colour bar.
    axes.imshow(grey, cmap='gray', vmin=-1, vmax=1)
    axes.set_axis_off()
    # The overlay is transparent where there is no evidence, so that the image is visible.
    blue, red = (0.1, 0.35, 0.8), (0.85, 0.1, 0.1)
    see_through = colors.LinearSegmentedColormap.from_list(
        'evidence', [(0, (*blue, 0.8)), (0.5, (*blue, 0)), (0.5, (*red, 0)), (1, (*red, 0.8))]
    )
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    _draw_values(axes, explanation.evidence, see_through, extent, 'against   <   evidence (logits)   >   for')
    rows, columns = explanation.evidence.shape
    target = explanation.target
    axes.set_title(
        f'Evidence for: {_short(target.name)} ({target.probability:.1%})\nin {columns}x{rows} places of the last stage',
        parse_math=False,
    )


def _draw_classes(axes: 'Axes', explanation: Explanation) -> None:
    guesses = explanation.top
    # The places are numbers, because several classes may have the same name.
    places = range(len(guesses))
    colours = ['tab:red' if guess == explanation.target else 'tab:gray' for guess in guesses]
    bars = axes.barh(places, [guess.probability for guess in guesses], color=colours)
    axes.bar_label(bars, [f'{guess.probability:.1%}' for guess in guesses], padding=3)
    axes.set_yticks(places, [_short(guess.name) for guess in guesses], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3)
    axes.set_xticks([0, 0.5, 1])
    axes.set_xlabel('probability')
    axes.spines[['top', 'right']].set_visible(False)
    axes.set_title('Most probable classes')


def _draw_table(axes: 'Axes', table: BiasTable) -> None:
    rows, columns = table.values.shape
    extent = (-columns / 2, columns / 2, rows / 2, -rows / 2)
    _draw_values(axes, table.values, 'RdBu_r', extent, 'added before softmax')
    axes.locator_params(integer=True, nbins=5)
    axes.set_xlabel('dx = query - key')
    axes.set_ylabel('dy = query - key')
    axes.set_title(f'Stage {table.stage}, block {table.block}\nhead {table.head} of {table.num_heads}')


def _draw_values(axes: 'Axes', values: np.ndarray, cmap: Any, extent: tuple[float, ...], label: str) -> None:
    """Draw values in colours whose middle is zero, and a colour bar next to the axes, as high as the axes."""
    largest = np.abs(values).max()
    image = axes.imshow(values, cmap=cmap, vmin=-largest, vmax=largest, extent=extent, interpolation='nearest')
    axes.figure.colorbar(image, cax=axes.inset_axes((1.04, 0, 0.05, 1)), label=label)


def _short(label: str) -> str:
    """Shorten the first name in a label."""
    first = shown(label.partition(',')[0])
    return first if len(first) <= _LONGEST_LABEL else first[: _LONGEST_LABEL - 1] + '…'
