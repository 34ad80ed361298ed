"""The studies compare layouts of equal cost, go on after interruptions, and write the files that they promise."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from scripts.studies import layouts
from scripts.studies.layouts_picture import Epoch, Run, interval, read, summary, write

RUN = Run('fashion-mnist', 'scratch', 'CCTT', 'pre', 1, 12, 0, 1e-3)


def test_layouts_cost_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.check_costs()
    wider = dict(CTTT=((4, 8), (8, 24, 32, 48), {}), CCTT=layouts.LAYOUTS['CCTT'])
    monkeypatch.setattr(layouts, 'LAYOUTS', wider)
    with pytest.raises(ValueError, match='CTTT costs more than 5 % more or less than CCTT at 32 pixels'):
        layouts.check_costs()


def test_fashion_mnist_has_all_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, 'load', lambda data: [(None, range(60_000))])
    runs = layouts.plan('fashion-mnist')
    assert len(set(runs)) == len(runs)
    usual = [r[2:3] + r[5:7] for r in runs if r[:2] + r[3:5] == ('fashion-mnist', 'scratch', 'pre', 1)]
    seeds = {600: 5, 6_000: 3, 60_000: 3}
    assert {*usual} == {(name, n, s) for name in layouts.LAYOUTS for n, most in seeds.items() for s in range(most)}
    assert {r.rel_attn for r in runs if r.images == 6_000} == {'pre', 'post', 'none'}
    assert {layouts.pretrained(r) for r in runs if r.part == 'transfer'} <= set(runs)
    assert {(r.width, r.part, r.images) for r in runs} >= {(2, 'scratch', 600), (1, 'recipe', 6_000)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Two networks on 12 images, one after the other in this process."""
    part = torch.rand(12, 1, 32, 32), torch.arange(12) % 10
    monkeypatch.setattr(layouts, 'choose', lambda *args: (part, part))
    monkeypatch.setattr(layouts, 'ProcessPoolExecutor', lambda *args, **kwargs: ThreadPoolExecutor(1))
    monkeypatch.setattr(layouts, 'WORKERS', 1)
    monkeypatch.setattr(layouts, 'pretrained', lambda run: run._replace(part='scratch'))
    monkeypatch.setitem(layouts.EPOCHS, 12, 2)
    return [RUN._replace(part='transfer'), RUN]


@pytest.mark.parametrize(('writes', 'lost'), [(0, False), (1, False), (3, True)])
def test_an_interrupted_study_goes_on(
    small: list[Run], writes: int, lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / 'whole.csv', tmp_path / 'parts.csv'
    rows = layouts.train_all(small, whole, tmp_path / 'whole')
    assert [(row.run.part, row.epoch) for row in rows] == [(run.part, epoch) for run in small for epoch in (0, 1)]
    monkeypatch.setattr(layouts, 'JOB', 12)  # the epochs apart
    left = iter(range(writes))

    def killed(*args) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(*args)

    monkeypatch.setattr(layouts, 'write', killed)
    with pytest.raises(KeyboardInterrupt):
        layouts.train_all(small, parts, tmp_path / 'parts')
    assert len(read(parts)) == writes
    for weights in (tmp_path / 'parts').glob('*.pt' if lost else 'none'):
        weights.unlink()
    monkeypatch.setattr(layouts, 'write', write)
    assert layouts.train_all(small, parts, tmp_path / 'parts') == rows
    assert parts.read_text() == whole.read_text()


def test_confidence_intervals(tmp_path: Path) -> None:
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2, 4.303 / 3**0.5), abs=1e-3)  # Student's t from a table
    vit = RUN._replace(layout='ViT_REL')
    measured = [(RUN, 80.0), (vit, 60.0), (RUN._replace(seed=1), 70.0), (vit._replace(seed=1), 51.0)]
    rows = [Epoch(run, 0, 0.5) for run, _ in measured] + [Epoch(run, 1, 0.4, 0.1, 90.0, top1) for run, top1 in measured]
    write(rows, tmp_path / 'layouts.csv')
    assert read(tmp_path / 'layouts.csv') == rows
    line = summary(rows).splitlines()[3]  # 12.706 standard errors for two seeds
    assert line == '| 12 fashion-mnist scratch | ViT_REL pre | 2 | 0.10 ± 0.00 | 90.00 ± 0.00 | 55.50 ± 57.18 | ' \
        '34.50 ± 57.18 | -19.50 ± 6.35 |'  # fmt: skip
