"""Takes the commands of docs/training.md and runs them with timm's unmodified scripts and fewer epochs.

Set TIMM_REPO to a checkout of huggingface/pytorch-image-models; WALKTHROUGH_EPOCHS=full keeps the epochs of the page.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from pages import blocks
from paths import ROOT

REPO = os.environ.get('TIMM_REPO')
FULL = os.environ.get('WALKTHROUGH_EPOCHS') == 'full'

pytestmark = pytest.mark.skipif(not REPO, reason='TIMM_REPO names no checkout of huggingface/pytorch-image-models')


def steps() -> list[str]:
    """The commands of the page that belong to the walk-through."""
    return [block.code for block in blocks('docs/training.md') if 'walkthrough' in block.words]


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of the walk-through."""
    pytest.importorskip('pandas')
    folder = tmp_path_factory.mktemp('walkthrough')
    # Copies, because scripts in the checkout would import the timm of the checkout instead of the installed timm.
    (folder / 'pytorch-image-models').mkdir()
    for name in ('train', 'validate', 'inference', 'benchmark'):
        shutil.copy(Path(REPO) / f'{name}.py', folder / 'pytorch-image-models')
    for name in ('scripts', 'tests'):
        (folder / name).symlink_to(ROOT / name)
    commands = '\n'.join(steps())
    if not FULL:
        commands = commands.replace('--epochs 15', '--epochs 2').replace('--epochs 3', '--epochs 1')
    bin_dir = Path(sys.executable).parent
    env = {**os.environ, 'PATH': f'{bin_dir}{os.pathsep}{os.environ["PATH"]}', 'OMP_NUM_THREADS': '1'}
    script = f'set -eux -o pipefail\n{commands}'
    result = subprocess.run(['bash', '-c', script], cwd=folder, env=env, text=True, capture_output=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as f:
        return list(csv.DictReader(f))


def best(folder: Path, experiment: str) -> float:
    return max(float(row['eval_top1']) for row in rows(folder / 'runs' / experiment / 'summary.csv'))


def test_training_learns(folder: Path) -> None:
    scratch, two, tuned = (best(folder, name) for name in ('scratch', 'two', 'tuned'))
    print(f'held-out accuracy: from scratch {scratch:.2f} %, two processes {two:.2f} %, fine-tuned {tuned:.2f} %')
    assert tuned >= 99
    if FULL:
        assert scratch >= 95 and two >= 95


def test_validation_agrees_with_training(folder: Path) -> None:
    (result,) = rows(folder / 'runs' / 'validate.csv')
    assert float(result['top1']) == pytest.approx(best(folder, 'scratch'), abs=0.3)
    assert result['img_size'] == '64'


def test_every_image_is_predicted(folder: Path) -> None:
    (file,) = (folder / 'runs').glob('predictions*')
    labels = [row['label'] for row in rows(file)]
    assert len(labels) == 360
    assert all(re.fullmatch(r"\['\d' '\d' '\d'\]", label) for label in labels)


def test_benchmark_times_both(folder: Path) -> None:
    (result,) = rows(folder / 'runs' / 'benchmark.csv')
    assert float(result['infer_samples_per_sec']) > 0 and float(result['train_samples_per_sec']) > 0


def test_result_goes_back_through_a_folder(folder: Path) -> None:
    runs = folder / 'runs'
    tuned = torch.load(runs / 'tuned' / 'model_best.pth.tar', weights_only=False)['state_dict']
    model = timm.create_model(f'local-dir:{runs / "tuned_model"}', pretrained=True)
    assert model.state_dict().keys() == tuned.keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, tuned[key])
    assert model.pretrained_cfg['interpolation'] == 'bilinear'


def test_grey_images_give_the_same_logits_in_three_channels(folder: Path) -> None:
    name = f'local-dir:{folder / "runs" / "converted"}'
    grey, colour = (timm.create_model(name, pretrained=True, in_chans=n).eval() for n in (1, 3))
    x = torch.rand(4, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(colour(x.expand(-1, 3, -1, -1)), grey(x), rtol=0, atol=1e-4)


def test_sharded_training_writes_a_folder(folder: Path) -> None:
    model = timm.create_model(f'local-dir:{folder / "runs" / "fsdp"}', pretrained=True).eval()
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 10)
