"""The measurements and studies compare comparable candidates, and write the files that they promise."""

import csv
import functools
import sys
import time
from pathlib import Path

import pytest
import torch
from long_tests import slow
from PIL import Image

from scripts.benchmarks import __main__ as benchmark
from scripts.benchmarks import attention, core, inference, profiling
from scripts.studies import attention as attention_study
from scripts.studies import layouts
from scripts.studies.layouts_data import load_images
from scripts.studies.layouts_picture import interval


def test_layouts_cost_the_same() -> None:
    images = load_images(None)
    layouts.check_costs(images)
    wide = dict(layouts.LAYOUTS['CTTT'], embed_dim=(32, 64, 160, 192))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(layouts.LAYOUTS, 'CTTT', wide)
        with pytest.raises(ValueError, match='CTTT costs more than 5 % more or less than CCTT at 64 pixels'):
            layouts.check_costs(images)


@slow
def test_layouts_are_compared_on_a_folder_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for colour in ('red', 'green'):
        (tmp_path / 'images' / colour).mkdir(parents=True)
        for i in range(4):
            Image.new('RGB', (40 + i, 50), colour).save(tmp_path / 'images' / colour / f'{i}.png')
    args = f'--data {tmp_path}/images --train-images 4 --seeds 2 --epochs 1 --batch-size 2 --out {tmp_path}/out/layouts'
    monkeypatch.setattr(sys, 'argv', ['layouts.py', *args.split()])
    layouts.main()
    with (tmp_path / 'out' / 'layouts.csv').open() as f:
        rows = list(csv.DictReader(f))
    expected = {('ViT_REL', 'pre'), ('CCCC', 'pre'), ('CCCT', 'pre'), ('CCTT', 'pre'), ('CTTT', 'pre')}
    expected |= {('CCTT', 'post'), ('CCTT', 'none')}
    assert {(row['layout'], row['rel_attn']) for row in rows} == expected
    assert len(rows) == 2 * len(expected)
    assert all(0 <= float(row['held_out']) <= 100 for row in rows)
    assert Image.open(tmp_path / 'out' / 'layouts.png').width > 1000


def test_confidence_intervals() -> None:
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.303 / 3**0.5, abs=1e-3)  # Student's t of two degrees of freedom, table value


def test_ratios_are_those_of_time_and_unequal_outputs_are_refused(tmp_path: Path) -> None:
    def sleeper(seconds: float, value: float):
        def call() -> torch.Tensor:
            time.sleep(seconds)
            return torch.tensor([1.0, value])

        return call

    calls = {'timm eager fp32': sleeper(0.04, 2.0), 'ours eager fp32': sleeper(0.02, 2.0)}
    rows = core.compare('training', 'a', calls, rounds=3)
    assert [row.difference for row in rows] == [0, 0]
    assert rows[1].ratio == rows[1].speed == pytest.approx(2, rel=0.2)
    core.write(rows, tmp_path / 'rows.csv')
    assert core.read(tmp_path / 'rows.csv') == rows
    assert 'ours eager fp32' in (tmp_path / 'rows.csv').read_text()
    assert '| ours eager fp32 |' in benchmark.table(rows, {})
    calls['ours eager fp32'] = sleeper(0.02, 2.001)
    with pytest.raises(ValueError, match='ours eager fp32 differs from timm eager fp32 by 5'):
        core.compare('training', 'a', calls, rounds=2)


def test_the_fastest_of_several_is_the_reference() -> None:
    calls = {name: (lambda s=s: time.sleep(s)) for name, s in (('slow', 0.06), ('fast', 0.03), ('ours', 0.015))}
    rows = core.compare('a', 'b', calls, rounds=3, references=dict(ours=['slow', 'fast']))
    assert rows[2].reference == 'fast'
    assert rows[2].ratio == pytest.approx(2, rel=0.2)
    assert rows[2].speed == pytest.approx(4, rel=0.2)


def test_profiles_tell_operators_apart() -> None:
    layers = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 1), torch.nn.Conv2d(64, 64, 3, groups=64)).eval()
    x = torch.randn(16, 64, 64, 64)
    for layer, kind in zip(layers, (profiling.PRODUCTS, profiling.DEPTHWISE), strict=True):
        layer(x)
        shares = profiling.shares(lambda layer=layer: layer(x))
        assert int(shares.split(kind)[1].split()[0]) > 50


def test_memory_is_the_most_that_is_allocated_at_one_time() -> None:
    def call() -> None:
        a = torch.ones(3_000_000)
        b = a + 1
        del a
        b.sqrt()

    call()
    assert profiling.allocated_peak(call) == pytest.approx(24, rel=0.01)


@torch.inference_mode()
def test_every_way_to_compute_attention_is_compared() -> None:
    rows = attention.attention('cpu', [2], rounds=2, compiled=False)
    assert {row.setting for row in rows} == {'batch 2, 196 positions', 'batch 2, 49 positions'}
    assert {'SDPA, as it chooses', 'SDPA, math', 'SDPA, flash'} <= {row.candidate for row in rows}
    assert all(row.difference < 1e-5 for row in rows)


@torch.inference_mode()
def test_flex_attention_adds_the_same_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='eager'))
    q, k, v = torch.randn(3, 2, 3, 16, 8).unbind()
    calls = attention.candidates(q, k, v, torch.randn(1, 3, 16, 16), compiled=True)
    torch.testing.assert_close(calls['FlexAttention'](), calls['SDPA, math'](), rtol=0, atol=1e-5)


@slow
def test_memory_is_measured_in_processes_of_their_own() -> None:
    ours = core.in_child(inference.growth_memory, name='coatnet_0_rw_224', size=224, threads=1, optimised=False)[
        'memory'
    ]
    assert 100 < ours < 1000  # 27 M parameters in float32 are 110 MB
    study = core.in_child(attention_study.memory, candidate='windows', name='coatnet_0', size=224, threads=1)
    assert 100 < study['memory'] < 1000
    with pytest.raises(RuntimeError, match='KeyError'):
        core.in_child(attention_study.memory, candidate='none', name='coatnet_0', size=224, threads=1)
