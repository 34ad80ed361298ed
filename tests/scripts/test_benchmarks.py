"""The measurements compare comparable candidates, and write the files that they promise."""

import functools
import time
from pathlib import Path

import pytest
import torch
from long_tests import slow

from scripts.benchmarks import __main__ as benchmark
from scripts.benchmarks import attention, core, inference, profiling


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
