"""The studies compare layouts of equal cost, go on after interruptions, and write the files that they promise."""

import gzip
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image

from scripts.benchmarks import core
from scripts.studies import attention, layouts, layouts_data
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


def test_the_command_writes_a_picture(
    small: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layouts, 'plan', lambda data: small)
    monkeypatch.setattr(sys, 'argv', ['layouts.py', '--data', 'digits', '--out', 'out/layouts'])
    layouts.main()
    assert Image.open('out/layouts.png').width > 1000
    assert '| 12 fashion-mnist transfer | CCTT pre | 1 |' in capsys.readouterr().out


def test_images_of_fashion_mnist_and_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts_data, 'FASHION_MNIST', tmp_path / 'idx')
    load = layouts_data.load.__wrapped__  # without the cache
    with pytest.raises(SystemExit, match='install the Debian package dataset-fashion-mnist'):
        load('fashion-mnist')
    (tmp_path / 'idx').mkdir()
    pixels = bytes(index % 251 for index in range(2 * 28 * 28))
    for split in ('train', 't10k'):
        (tmp_path / 'idx' / f'{split}-images-idx3-ubyte.gz').write_bytes(gzip.compress(bytes(16) + pixels))
        (tmp_path / 'idx' / f'{split}-labels-idx1-ubyte.gz').write_bytes(gzip.compress(bytes(8) + b'\0\1'))
    (x, y), held_out = load('fashion-mnist')
    grey = ((x + 1) * 127.5).round().byte()
    assert grey[1, 0, 2:30, 2:30].flatten().tolist() == list(pixels[28 * 28 :]) and x.shape == (2, 1, 32, 32)
    assert y.tolist() == [0, 1] and torch.equal(x, held_out[0])
    for row, split in enumerate(('train', 'validation')):
        for name in ('a', 'b'):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(grey[row, 0].numpy()).save(tmp_path / split / name / '0.png')
    train, held_out = load(str(tmp_path))
    assert torch.equal(train[0], x[[0, 0]]) and torch.equal(held_out[0], x[[1, 1]]) and train[1].tolist() == [0, 1]
    monkeypatch.setattr(layouts, 'load', load)
    with pytest.raises(SystemExit, match='has fewer than 600 training images'):
        layouts.plan(str(tmp_path))


def test_images_are_the_same_for_all_seeds_except_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    (digits, classes), held_out = layouts_data.choose('digits', 100, False, 1)
    assert digits.shape == (100, 1, 32, 32) and len(held_out[1]) == 797 and len(classes.unique()) == 10
    assert not torch.equal(digits, layouts_data.choose('digits', 100, False, 2)[0][0])
    monkeypatch.setattr(layouts_data, 'load', lambda data: ((digits, classes), held_out))
    assert torch.equal(*(layouts_data.choose('fashion-mnist', 50, False, seed)[0][0] for seed in (1, 2)))


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


def test_attention_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, '_ROUND', 0)  # one call in a round
    monkeypatch.setitem(attention.CANDIDATES, 'windows', dict(attn_window=2))
    monkeypatch.setattr(attention, 'in_child', lambda function, **arguments: function(**arguments))
    monkeypatch.setattr(attention, 'forward_memory', lambda build: build())
    rows = attention.measure(64, rounds=2)
    assert {row.candidate for row in rows} == set(attention.CANDIDATES)
    assert all(row.seconds > 0 for row in rows)
    model, images = rows[-1].memory
    assert model.cfg.attn_type == 'linear' and model(images).shape == (1, 1000)
