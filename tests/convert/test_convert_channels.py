"""`convert --in-chans 3`: three channels of one, exact for grey images, whatever the checkpoint is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from command_line import output_of, refusal
from paths import DATA
from peers import random_images, randomize_
from torch import nn

FIXTURE = DATA / 'chinhsuanwu_digits_64.pth'


def save(model: nn.Module, file: Path) -> Path:
    torch.save(randomize_(model).state_dict(), file)
    return file


FILES: dict[str, Callable[[Path], Path]] = {
    'chinhsuanwu': lambda folder: FIXTURE,
    'ours': lambda folder: save(timm.create_model('coatnet_atto', in_chans=1), folder / 'a.pth'),
    'headless': lambda folder: save(timm.create_model('coatnet_atto', in_chans=1, num_classes=0), folder / 'a.pth'),
}


@pytest.mark.parametrize('case', FILES)
@torch.inference_mode()
def test_grey_images_give_the_same_logits(case: str, tmp_path: Path) -> None:
    file = FILES[case](tmp_path)
    output_of('convert', file, tmp_path / 'grey', '--mean', '0.3', '--std', '0.25')
    text = output_of('convert', file, tmp_path / 'colour', '--in-chans', '3', '--mean', '0.3', '--std', '0.25')
    assert 'images 3 channels' in text
    grey, colour = (timm.create_model(f'local-dir:{tmp_path / n}', pretrained=True).eval() for n in ('grey', 'colour'))
    assert (colour.in_chans, list(colour.pretrained_cfg['input_size'])) == (3, [3, 64, 64])
    assert (colour.pretrained_cfg['mean'], colour.pretrained_cfg['std']) == ([0.3] * 3, [0.25] * 3)
    x = random_images(4, 1, 64)
    torch.testing.assert_close(colour(x.expand(-1, 3, -1, -1)), grey(x), rtol=0, atol=1e-5)


def test_the_assumed_mean_is_that_of_grey_images(tmp_path: Path) -> None:
    output_of('convert', FIXTURE, tmp_path / 'out', '--in-chans', '3')
    cfg = json.loads((tmp_path / 'out' / 'config.json').read_text())['pretrained_cfg']
    assert (cfg['mean'], cfg['std']) == ([0.449] * 3, [0.226] * 3)


@pytest.mark.parametrize('has, wanted', [(1, '2'), (1, '-3'), (3, '1'), (2, '3')])
def test_other_changes_are_refused(has: int, wanted: str, tmp_path: Path) -> None:
    file = save(timm.create_model('coatnet_atto', in_chans=has), tmp_path / 'a.pth')
    message = refusal('convert', file, tmp_path / 'out', '--in-chans', wanted)
    assert f'in_chans={wanted} is not possible for a checkpoint of in_chans={has}' in message
    assert not (tmp_path / 'out').exists()
