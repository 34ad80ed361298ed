"""The picture of the benchmarks shows what was measured, and no two texts overlap."""

import dataclasses
import itertools
from pathlib import Path

import pytest
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from paths import ROOT
from PIL import Image

from scripts.benchmarks import core, picture
from scripts.benchmarks.core import Row


def _speeds(part: str) -> list[Row]:
    names = ['timm eager fp32', *picture._LABELS, 'OpenVINO fp32 streams']
    return [
        Row(part, f'batch {batch}', name, names[0], 1, 0, 1, 1 + i / 10)
        for batch in (8, 1, 32)
        for i, name in enumerate(names)
        if batch > 1 or 'streams' not in name
    ]


def _texts(rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All texts of the picture; no two of them overlap."""
    places: dict[Text, Bbox] = {}
    draw, draw_figure = Text.draw, Figure.draw

    def note(text: Text, renderer: RendererBase) -> None:
        draw(text, renderer)
        if text.get_text() and text.get_visible():
            places[text] = Text.get_window_extent(text, renderer)  # without the arrows of annotations

    def draw_again(figure: Figure, renderer: RendererBase) -> None:
        places.clear()  # of the attempts to find a layout
        draw_figure(figure, renderer)

    monkeypatch.setattr(Text, 'draw', note)
    monkeypatch.setattr(Figure, 'draw', draw_again)
    picture.draw(rows, tmp_path / 'picture.png')
    for a, b in itertools.combinations(places, 2):
        assert not places[a].overlaps(places[b]), (a, b)
    with Image.open(tmp_path / 'picture.png') as image:
        for text, place in places.items():
            assert place.min.min() >= 0 and (place.max <= image.size).all(), text
    return [text.get_text() for text in places]


def test_the_picture_shows_all_without_overlaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = [row for row in core.read(ROOT / 'docs' / 'performance.csv') if row.part != 'engines']
    texts = _texts(_speeds('engines') + measured, tmp_path, monkeypatch)
    titles = {'Speed, timm eager fp32 = 1', 'One larger image: time and memory', 'Speed of training, timm = 1'}
    assert titles | set(picture._LABELS.values()) <= set(texts)
    assert 'OpenVINO fp32 streams' not in texts  # the faster of OpenVINO's ways is drawn
    assert texts.count('2.10') == 2
    assert (tmp_path / 'picture.png').stat().st_size > 10_000


@pytest.mark.parametrize('parts', ['inference', 'growth', 'engines training', 'one'])
def test_the_picture_takes_what_is_there(parts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _speeds('engines') + core.read(ROOT / 'docs' / 'performance.csv')
    rows = [row for row in rows if row.part.startswith(tuple(parts.split()))] or [_speeds('engines')[1]]
    titles = {'engines': 'Speed,', 'inference': 'Speed,', 'one': 'Speed,', 'growth': 'One', 'training': 'Speed of'}
    texts = _texts(rows, tmp_path, monkeypatch)
    assert all(any(text.startswith(titles[part]) for text in texts) for part in parts.split())
    without_ours = [dataclasses.replace(row, memory=None) for row in rows if not row.candidate.startswith('ours')]
    picture.draw(without_ours[1:], tmp_path / 'theirs.png')


def test_no_picture_without_its_parts(tmp_path: Path) -> None:
    picture.draw([Row('busy', 'batch 8', 'ours eager fp32', 'a', 1, 0, 1, 1)], tmp_path / 'picture.png')
    assert not (tmp_path / 'picture.png').exists()
