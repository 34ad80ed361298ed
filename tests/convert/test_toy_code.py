"""A third-party code is one file and one row: a toy code is added without a change of any module, and converts."""

from pathlib import Path

import pytest
import timm
import torch
import toy_code
from command_line import output_of, refusal
from peers import random_images, randomize_
from torch import nn

from coatnet_zoo import CheckpointError
from coatnet_zoo.registry import IMPLS

STAGES = dict(stem_width=(8, 16), embed_dim=(16, 24, 32, 48), depths=(1, 2, 1, 2))


@pytest.fixture(autouse=True)
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(IMPLS, toy_code.IMPL, toy_code.CODE)


@pytest.fixture
def model() -> nn.Module:
    """A network of that code with random weights and statistics."""
    return randomize_(timm.create_model('coatnet_0', impl='toy', num_classes=6, in_chans=2, **STAGES))


@pytest.fixture
def file(model: nn.Module, tmp_path: Path) -> Path:
    toy_code.write(model.state_dict(), tmp_path / 'best.toy')
    return tmp_path / 'best.toy'


@torch.inference_mode()
def test_convert_makes_a_folder_that_loads(model: nn.Module, file: Path, tmp_path: Path) -> None:
    text = output_of('convert', file, tmp_path / 'out')
    assert '1x16 C, 2x24 C, 1x32 T, 2x48 T' in text and '6 classes' in text
    loaded = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).eval()
    assert loaded.cfg == model.cfg
    assert loaded.pretrained_cfg['crop_pct'] == 0.5
    x = random_images(2, 2, 64)
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=1e-6)


@torch.inference_mode()
def test_its_files_load_without_a_folder(model: nn.Module, file: Path) -> None:
    arguments = dict(impl='toy', num_classes=6, in_chans=2, **STAGES)
    overlay = dict(file=str(file), num_classes=6, input_size=(2, 224, 224))
    loaded = timm.create_model('coatnet_0', pretrained=True, pretrained_cfg_overlay=overlay, **arguments).eval()
    x = random_images(2, 2, 64)
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=1e-6)
    with pytest.raises(CheckpointError, match=r"saved by somebody's toy and does not fit .*impl='toy', stem_width"):
        timm.create_model('coatnet_0', impl='paper', pretrained=True, pretrained_cfg_overlay=dict(file=str(file)))


def test_bad_files_are_refused(file: Path, tmp_path: Path) -> None:
    lines = file.read_text().splitlines()
    for change, words in (
        (lines[1:], 'lacks the tensor toy/stem/conv1/weight'),
        ([line for line in lines if 'head' not in line], 'no classifier'),
        ([*lines, 'toy/more 1 0.5'], 'do not belong there: toy/more'),
    ):
        file.write_text('\n'.join(change))
        assert words in refusal('convert', file, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
