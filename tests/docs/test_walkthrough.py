"""Takes the commands of docs/training.md and runs them with timm's unmodified scripts and fewer epochs.

Set TIMM_REPO to a checkout of huggingface/pytorch-image-models.
"""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from pages import blocks, lay_out, lay_out_timms_scripts, run


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of the walk-through."""
    pytest.importorskip('pandas')
    folder = lay_out(tmp_path_factory.mktemp('walkthrough'))
    lay_out_timms_scripts(folder)
    for block in blocks('docs/training.md'):
        if 'walkthrough' in block.words:
            code = block.code.replace('--epochs 15', '--epochs 2').replace('--epochs 3', '--epochs 1')
            run(replace(block, code=code), folder)
    return folder


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as f:
        return list(csv.DictReader(f))


def best(folder: Path, experiment: str) -> float:
    return max(float(row['eval_top1']) for row in rows(folder / 'runs' / experiment / 'summary.csv'))


def test_training_learns(folder: Path) -> None:
    assert best(folder, 'tuned') >= 99
    assert all(0 < best(folder, name) <= 100 for name in ('scratch', 'two'))


def test_validation_agrees_with_training(folder: Path) -> None:
    (result,) = rows(folder / 'runs' / 'validate.csv')
    assert float(result['top1']) == pytest.approx(best(folder, 'scratch'), abs=0.3)
    assert result['img_size'] == '64'


def test_every_image_is_predicted(folder: Path) -> None:
    (file,) = (folder / 'runs').glob('predictions*')
    labels = [row['label'] for row in rows(file)]
    assert len(labels) == 360
    assert all(re.fullmatch(r"\['\d' '\d' '\d'\]", label) for label in labels)


def test_result_goes_back_through_a_folder(folder: Path) -> None:
    runs = folder / 'runs'
    tuned = torch.load(runs / 'tuned' / 'model_best.pth.tar', weights_only=False)['state_dict']
    model = timm.create_model(f'local-dir:{runs / "tuned_model"}', pretrained=True)
    torch.testing.assert_close(dict(model.state_dict()), dict(tuned), rtol=0, atol=0)
    assert model.pretrained_cfg['interpolation'] == 'bilinear'
