"""Predictions as text for readers, as JSON and as CSV."""

import csv
import io
import json
from collections.abc import Iterator, Sequence

from ..errors import shown
from .predict import Guess, Prediction

# Characters of the columns of a terminal.
_PERCENT = 7
_LONGEST_LABEL = 28
_GAP = '  '


def readable(predictions: Sequence[Prediction], width: int | None) -> Iterator[str]:
    """Predictions as lines: several lines for one file, one line for each of several files.

    Args:
        predictions: Predictions with the same number of guesses, at least one.
        width: Characters of the terminal. The lines for several files have as many guesses as fit, and long names are
            shortened. None for lines of any length.
    """
    if len(predictions) == 1:
        (prediction,) = predictions
        yield shown(prediction.file)
        for guess in prediction.guesses:
            label = '' if guess.label is None else f'{_GAP}{shown(guess.label)}'
            yield f'{guess.probability:{_PERCENT}.2%}{_GAP}{guess.index:5}{label}'
        return
    names = [shown(prediction.file) for prediction in predictions]
    columns = list(zip(*([_label(guess, width) for guess in p.guesses] for p in predictions), strict=True))
    widths = [max(map(len, column)) for column in columns]
    longest = max(map(len, names))
    if width is not None:
        longest = min(longest, max(width // 3, width - len(_GAP) * 2 - _PERCENT - widths[0]))
        free = width - longest
        fitting = 1
        while fitting < len(widths) and sum(widths[: fitting + 1]) + (_PERCENT + 2 * len(_GAP)) * (fitting + 1) <= free:
            fitting += 1
        widths = widths[:fitting]
    for i, prediction in enumerate(predictions):
        cells = [_end_of(names[i], longest).ljust(longest)]
        for guess, column, size in zip(prediction.guesses, columns, widths, strict=False):
            cells.append(f'{guess.probability:{_PERCENT}.2%}{_GAP}{column[i].ljust(size)}')
        yield _GAP.join(cells).rstrip()


def _label(guess: Guess, width: int | None) -> str:
    label = shown(guess.name)
    return label if width is None or len(label) <= _LONGEST_LABEL else f'{label[: _LONGEST_LABEL - 3]}...'


def _end_of(name: str, longest: int) -> str:
    return name if len(name) <= longest else f'...{name[len(name) - longest + 3 :]}'


def json_text(predictions: Sequence[Prediction]) -> str:
    """A list of objects: `file`, and `predictions` with `index`, `label` (null without labels) and `probability`."""
    rows = [{'file': str(p.file), 'predictions': [vars(guess) for guess in p.guesses]} for p in predictions]
    return json.dumps(rows, indent=1)


def csv_text(predictions: Sequence[Prediction]) -> str:
    """A header, and a row for each guess; rank 1 is the most probable class of a file."""
    text = io.StringIO(newline='')
    rows = csv.writer(text)
    rows.writerow(('file', 'rank', 'index', 'label', 'probability'))
    for prediction in predictions:
        for rank, guess in enumerate(prediction.guesses, start=1):
            rows.writerow([prediction.file, rank, guess.index, guess.label, guess.probability])
    return text.getvalue()
