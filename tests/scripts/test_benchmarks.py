"""The benchmarks alternate calls, refuse different outputs, and write the tables of the page."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from paths import ROOT

from scripts.benchmarks import __main__ as benchmark
from scripts.benchmarks import core, engines, figures, fresh, gpu, inference, training
from scripts.benchmarks.core import Row


def sleeper(seconds: float, value: float) -> Callable[[], torch.Tensor]:
    def call() -> torch.Tensor:
        time.sleep(seconds)
        return torch.full((2, 3), value)

    return call


def test_rows_compare_times_and_outputs(tmp_path: Path) -> None:
    calls = {'timm': sleeper(0.04, 2), 'ours': sleeper(0.02, 2)}
    rows = core.compare('training', 'a', calls, rounds=3)
    assert [row.difference for row in rows] == [0, 0]
    assert rows[1].ratio == pytest.approx(2, rel=0.2)
    core.write(rows, tmp_path / 'new' / 'rows.csv')
    again = core.read(tmp_path / 'new' / 'rows.csv')
    assert [row.candidate for row in again] == ['timm', 'ours']
    assert again[1].seconds == pytest.approx(rows[1].seconds, rel=1e-3)
    calls['ours'] = sleeper(0.02, 2.001)
    with pytest.raises(ValueError, match='ours differs from timm by 5'):
        core.compare('training', 'a', calls, rounds=2)


def test_tables_have_a_line_for_every_candidate(tmp_path: Path) -> None:
    page = tmp_path / 'page.md'
    page.write_text('A\n<!-- figures: sizes -->\n<!-- end of figures -->\n<!-- figures: other -->\nkept\n')
    rows = [
        Row('sizes', '224 px', 'timm', 'timm', 0.2, 0.01, 1.0),
        Row('sizes', '224 px', 'ours', 'timm', 0.1, 0.02, 2.0, 0.0, 300.4),
        Row('sizes', '672 px', 'ours', 'timm', 12.34, 0.0, 2.5),
    ]
    for _ in range(2):  # a second run replaces the table of the first
        figures.write_tables(rows, page)
        assert page.read_text().replace('\N{NO-BREAK SPACE}', ' ') == (
            'A\n<!-- figures: sizes -->\n\n| | 224 px | 672 px |\n|---|---:|---:|\n| timm | 200 ms ± 1 % |  |\n'
            '| ours | 100 ms ± 2 %, **2.00**, 300 MB | 12.3 s ± 0 %, **2.50** |\n\n'
            '<!-- end of figures -->\n<!-- figures: other -->\nkept\n'
        )


def test_the_page_has_the_tables_of_the_rows() -> None:
    text = (ROOT / 'docs' / 'performance.md').read_text()
    rows = core.read(ROOT / 'docs' / 'performance.csv')
    for part in benchmark.PARTS:
        own = [row for row in rows if row.part == part]
        table = f'\n{figures.table(own)}\n\n' if own else ''
        assert f'<!-- figures: {part} -->\n{table}<!-- end of figures -->' in text


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model that is created has one block in each stage, and few channels; a round is one call."""
    monkeypatch.setattr(core, '_ROUND', 0)
    create, sizes = timm.create_model, dict(depths=(1, 1, 1, 1), embed_dim=(8, 32, 64, 64), stem_width=(8, 8))
    monkeypatch.setattr(timm, 'create_model', lambda name, **kwargs: create(name, **kwargs, **sizes))
    monkeypatch.setattr(torch, 'set_num_threads', lambda _: None)


@pytest.mark.usefixtures('small')
def test_candidates_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, 'BATCHES', (2,))
    monkeypatch.setattr(inference, 'SIZES', (224,))
    monkeypatch.setattr(inference, 'in_child', lambda f, **k: len(k['candidate']) if 'candidate' in k else f(**k))
    rows = inference.inference(rounds=2)
    assert [row.candidate for row in rows] == ['timm', 'as created', 'optimised']
    assert all(row.difference < 1e-5 for row in rows)
    assert [row.memory for row in inference.sizes(rounds=2)] == [4, 10, 9]
    rows = training.training(rounds=2)
    assert {row.setting for row in rows} == {'eager fp32', 'eager bf16 autocast'}
    assert all(row.difference < 1e-3 for row in rows)


@pytest.mark.usefixtures('small')
def test_what_a_process_of_its_own_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, '_SECONDS', 0.01)
    assert len(engines.logits('optimised', 'nowhere', 2)) == 2
    assert 0 < engines.timed('optimised', 'nowhere', 2) < 60
    assert 0 < engines.timed('matmul peak', 'nowhere', 1) < engines.timed('matmul peak', 'nowhere', 4)
    for candidate in ('timm', 'optimised'):
        assert 0 < fresh.first_logits(candidate, time.time()) < 60
    assert fresh.import_times().keys() == {'import timm', 'our import', 'list'}
    assert core.in_child(fresh.peak_rss) > 1
    with pytest.raises(RuntimeError, match='TypeError'):
        core.in_child(fresh.import_times, unknown=1)


def test_what_a_gpu_is_measured_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """On the CPU, without what compiles. A measurement that fails does not stop the others."""
    cheap = [row for row in gpu.plan(gpu.TINY, None) if row[0] != 'compiled' and not row[1].startswith('compiled')]
    monkeypatch.setattr(gpu, 'plan', lambda *args: [('eager', 'broken', lambda *key: 1 / 0), *cheap])
    monkeypatch.setattr(gpu, 'flex_attention', None)
    monkeypatch.setattr(gpu.subprocess, 'run', lambda *args, **kwargs: None)
    monkeypatch.setattr(core, '_ROUND', 0)
    for minutes, expected in ((7, 'failed: eager broken Traceback'), (0, 'no time left for eager broken\n')):
        monkeypatch.setattr(sys, 'argv', f'gpu --tiny --out {tmp_path}/gpu.csv --minutes {minutes}'.split())
        gpu.main()
        assert expected in capsys.readouterr().out
    rows = core.read(tmp_path / 'gpu.csv')
    assert {(row.part, row.setting) for row in rows} == {row[:2] for row in cheap}
    assert all(row.difference < 0.05 for row in rows)
