"""The studies compare layouts of equal cost, and write the files that they promise."""

import csv
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from scripts.studies import attention, layouts
from scripts.studies.layouts_picture import interval


def test_layouts_cost_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.check_costs()
    monkeypatch.setitem(layouts.LAYOUTS, 'CTTT', dict(layouts.LAYOUTS['CTTT'], embed_dim=(32, 64, 160, 192)))
    with pytest.raises(ValueError, match='CTTT costs more than 5 % more or less than CCTT at 64 pixels'):
        layouts.check_costs()


def test_layouts_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, 'scaled_digits', lambda: (torch.rand(30, 1, 64, 64), torch.arange(30) % 10))
    args = f'--train-images 20 --seeds 1 --epochs 2 --out {tmp_path}/out/layouts'
    monkeypatch.setattr(sys, 'argv', ['layouts.py', *args.split()])
    layouts.main()
    with (tmp_path / 'out' / 'layouts.csv').open() as f:
        rows = list(csv.DictReader(f))
    assert {(row['layout'], row['rel_attn']) for row in rows} == set(layouts.RUNS)
    assert len(rows) == 2 * len(layouts.RUNS)
    assert all(0 <= float(row['held_out']) <= 100 for row in rows)
    assert Image.open(tmp_path / 'out' / 'layouts.png').width > 1000


def test_confidence_intervals() -> None:
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.303 / 3**0.5, abs=1e-3)  # Student's t of two degrees of freedom, table value


def test_attention_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(attention.CANDIDATES, 'windows', dict(attn_window=2))
    monkeypatch.setattr(attention, 'in_child', lambda function, **arguments: dict(memory=len(arguments)))
    rows = attention.measure(64, rounds=2)
    assert {row.candidate for row in rows} == set(attention.CANDIDATES)
    assert all(row.seconds > 0 and row.memory == 2 for row in rows)


def test_memory_is_that_of_an_image_through_the_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, 'forward_memory', lambda build, threads: build())
    model, images = attention.memory('linear', 64)
    assert model.cfg.attn_type == 'linear' and model(images).shape == (1, 1000)
