"""The parts of the benchmarks that are measured on request, with stubs in the place of engines."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import coatnet_zoo
from scripts.benchmarks import __main__ as benchmark
from scripts.benchmarks import busy, engines, first, fresh
from scripts.benchmarks.core import Row

BOTH = ['OpenVINO fp32', 'OpenVINO fp32 streams']


def test_ours_are_compared_with_openvino_in_the_same_precision() -> None:
    names = ['timm eager fp32', 'ours eager fp32', 'onnxruntime fp32', *BOTH, 'ours compiled int8', 'OpenVINO int8']
    expected = {'ours eager fp32': BOTH, 'ours compiled int8': ['OpenVINO int8']}
    assert engines.references(names) == expected


@pytest.mark.parametrize('count', [0, 2])
def test_engines_and_ours_are_timed_in_turn_on_busy_cores(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, logits = [], torch.randn(2, 10)

    @contextmanager
    def busy_cores(count: int) -> Iterator[None]:
        loads.append(count)
        yield
        loads.append(0)

    @contextmanager
    def networks(compiled: bool) -> Iterator[Path]:
        assert compiled
        yield Path('nowhere')

    def ours(_: Path, images: torch.Tensor, compiled: bool) -> dict[str, Callable[[], torch.Tensor]]:
        assert compiled
        calls = 'timm eager fp32', 'ours eager fp32', 'ours compiled int8'
        return {name: lambda: logits[: len(images)] + 0 for name in calls}

    def theirs(folder: Path, images: torch.Tensor, threads: int) -> dict[str, Callable[[], torch.Tensor]]:
        assert threads == 3
        return {name: lambda: logits[: len(images)] * 1.00001 for name in (BOTH[0], 'OpenVINO int8')}

    for name, stub in (
        ('busy_cores', busy_cores),
        ('networks', networks),
        ('torch_candidates', ours),
        ('engine_candidates', theirs),
    ):
        monkeypatch.setattr(engines, name, stub)
    rows = engines.engines('part', [1, 2], rounds=2, threads=3, busy=count)
    assert loads == [count, 0] * 2
    assert [row.setting for row in rows] == ['batch 1'] * 5 + ['batch 2'] * 5
    assert {row.candidate: row.reference for row in rows} == {
        'timm eager fp32': 'timm eager fp32',
        'ours eager fp32': 'OpenVINO fp32',
        'ours compiled int8': 'OpenVINO int8',
        'OpenVINO fp32': 'timm eager fp32',
        'OpenVINO int8': 'timm eager fp32',
    }
    assert all((row.profile is None) == (bool(count) or 'OpenVINO' in row.candidate) for row in rows)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_busy_processes_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    children = []
    start = busy.subprocess.Popen
    monkeypatch.setattr(busy.subprocess, 'Popen', lambda *a, **k: children.append(start(*a, **k)) or children[-1])
    with pytest.raises(KeyboardInterrupt), busy.busy_cores(2):
        assert [_is_running(child.pid) for child in children] == [True, True]
        raise KeyboardInterrupt
    assert not any(_is_running(child.pid) for child in children)
    with pytest.raises(RuntimeError, match='has ended too early'), busy.busy_cores(1):
        children[-1].kill()
        children[-1].wait()


def test_busy_processes_end_with_the_parent(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        assert busy.keep_busy(parent=os.getpid()) == {}  # its parent is another process
    finally:
        torch.set_num_threads(threads)
    assert capsys.readouterr().out == 'busy\n'


def test_first_logits_are_timed_in_new_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    filled: set[str] = set()
    called = []

    def in_child(function: Callable, **arguments) -> dict:
        called.append((function.__name__, arguments['kind']))
        assert Path(arguments['file']).exists()
        if function is fresh.save:
            Path(arguments['folder']).mkdir()
            return {}
        is_second, kind = arguments['cache'] in filled, arguments['kind']
        filled.add(arguments['cache'])
        seconds = {'eager': 2.0, 'optimised': 3.0, 'saved': 2.5}.get(kind, 4.0 if is_second else 40.0)
        return dict(seconds=seconds, logits=[[1.0, 2.0]])

    monkeypatch.setattr(first, 'in_child', in_child)
    monkeypatch.setattr(first, 'pair', lambda: (None, torch.nn.Linear(1, 1)))
    rows = first.first(rounds=3, threads=1)
    seconds = {row.candidate: row.seconds for row in rows}
    assert seconds == {
        'ours eager fp32': 2,
        'ours optimised fp32': 3,
        'ours compiled fp32, first process': 40,
        'ours compiled fp32, second process': 4,
        'ours compiled fp32, saved': 2.5,
        'ours compiled int8, first process': 40,
        'ours compiled int8, second process': 4,
        'ours compiled int8, saved': 2.5,
    }
    assert {row.candidate: row.ratio for row in rows} == {name: 2 / value for name, value in seconds.items()}
    assert called.count(('first_logits', 'compiled')) == 2 * 2  # processes that compile run in two rounds only
    assert called.count(('first_logits', 'saved')) == 2 * 3
    assert '| first | batch 8 | ours eager fp32 | 2000.0 |' in benchmark.table(rows, {})


@pytest.mark.parametrize('kind', ['eager', 'optimised', 'compiled', 'int8', 'saved'])
def test_the_first_logits_of_every_kind(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    def optimize(model: Model, compile: bool = False, quantize: str | None = None, calibration=None) -> Model:
        assert (quantize is None) == (calibration is None)
        made.append('compiled' if compile else quantize or 'optimised')
        return model

    made: list[str] = []
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', '')
    monkeypatch.setattr('timm.create_model', lambda *_, **__: Model())
    monkeypatch.setattr(coatnet_zoo, 'optimize_for_inference', optimize)
    monkeypatch.setattr(coatnet_zoo, 'load_optimized', lambda file: made.append('saved') or Model())
    arguments = dict(kind=kind, file='weights', threads=torch.get_num_threads(), cache=str(tmp_path))
    result = fresh.first_logits(**arguments, start=0)
    assert made == [kind] * (kind != 'eager')
    assert os.environ['TORCHINDUCTOR_CACHE_DIR'] == str(tmp_path)
    assert result['seconds'] > 1e9
    assert torch.tensor(result['logits']).shape == (8, 3)


@pytest.mark.parametrize(
    'arguments, message',
    [
        ('--part busy', "The part busy needs nowhere, missing: pip install 'coatnet-zoo[engines]'."),
        ('--part first --device cuda', 'engines, busy, first are measured on CPUs only'),
    ],
)
def test_parts_on_request_are_refused_early(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(engines.NEEDS, 'busy', ('json', 'nowhere', 'missing'))
    monkeypatch.setattr(sys, 'argv', ['benchmarks', *arguments.split(), '--out', str(tmp_path / 'out' / 'rows')])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_the_default_parts_need_no_engine() -> None:
    assert set(benchmark.PARTS['cpu']).isdisjoint(benchmark.ON_REQUEST)
    assert engines.missing(benchmark.PARTS['cpu']) is None


@pytest.mark.parametrize(
    'part, setting, has_share',
    [
        ('inference, timm weights', 'batch 8', True),
        ('engines', 'batch 8', True),
        ('busy', 'batch 8', False),
        ('first', 'batch 8', False),
        ('attention', 'batch 8, 49 positions', False),
        ('growth', '224 px', False),
    ],
)
def test_the_share_of_peak(part: str, setting: str, has_share: bool) -> None:
    share = benchmark.share_of_peak(Row(part, setting, 'ours int8', 'a', 1, 0, 1, 1), dict(int8=1e12))
    assert (share is not None) == has_share
    assert not has_share or 0.1 < share < 0.2  # 8 images of 8 G multiply-adds
