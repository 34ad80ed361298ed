"""Networks in memory: converted exactly, or refused with the first place that computes something else."""

from pathlib import Path

import pytest
import timm
import torch
from command_line import command, output_of, refusal
from fork import Fork
from paths import DATA
from peers import assert_close, random_images, randomize_, timm_peer
from torch import nn

from coatnet_zoo import CheckpointError, convert_module

DIFFERENT: dict[str, tuple[dict, str]] = {
    'Mish for every GELU': (dict(act=nn.Mish), 's0.0.2 is Mish, not GELU'),
    'images divided by 255': (dict(before=lambda x: x / 255), 'the images are changed before s0'),
    'a sigmoid after fc': (dict(after=torch.sigmoid), 'all blocks agree, so what follows s4 differs'),
    'fc that is not called': (dict(after=lambda x: x[:, :2]), 'what follows s4 differs'),
    'ReLU in squeeze-excite': (dict(se_act=nn.ReLU), 's1.0.conv.fn.6.fc.1 is ReLU, not GELU'),
    'average pooling': (dict(pool=nn.AvgPool2d), 's1.0.pool is AvgPool2d, not MaxPool2d'),
    'the stride in the depthwise convolution': (
        dict(stride_in_depthwise=True),
        's1.0.conv.fn.0 has stride=(1, 1), not (2, 2)',
    ),
    'the scale of the queries': (dict(scale_from_width=True), 's3.0 computes something else'),
}


@pytest.fixture(scope='module')
def fork() -> Fork:
    return randomize_(Fork()).eval()


def test_a_folder_is_written(fork: Fork, tmp_path: Path) -> None:
    result = convert_module(fork, tmp_path / 'out', mean=[0.5], labels=list('abcde'), images=torch.randn(1, 3, 64, 64))
    loaded = timm.create_model(f'local-dir:{result.folder}', pretrained=True).eval()
    x = random_images(2, 3, 64)
    with torch.inference_mode():
        assert_close(loaded(x), fork(x), rel=1e-5)
    assert loaded.pretrained_cfg['label_names'] == list('abcde')


@pytest.mark.parametrize('name', ['test_coatnet', 'coatnet_rmlp_nano_rw_224'])
@torch.no_grad()
def test_timms_networks_convert(name: str) -> None:
    theirs = timm_peer(name, num_classes=7, img_size=64)
    x = random_images(2, 3, 64)
    for options in (dict(images=x), dict(img_size=64)):
        assert_close(convert_module(theirs, **options)(x), theirs(x), rel=1e-4)


@pytest.mark.parametrize('case', DIFFERENT)
def test_the_place_that_differs_is_named(case: str, tmp_path: Path) -> None:
    change, words = DIFFERENT[case]
    with pytest.raises(CheckpointError) as caught:
        convert_module(randomize_(Fork(**change)), tmp_path / 'out')
    assert words in str(caught.value) and '\n' not in str(caught.value), caught.value
    assert not (tmp_path / 'out').exists()


def test_other_modules_and_images_are_refused(fork: Fork) -> None:
    with pytest.raises(CheckpointError, match='not a checkpoint of'):
        convert_module(nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r'fails on images \(1, 3, 96, 96\)'):
        convert_module(fork, images=torch.randn(1, 3, 96, 96))


CODE = """
from fork import Fork
from torch import nn

def build(): return Fork()

def wrapped(): return nn.DataParallel(Fork())

def mish(): return Fork(act=nn.Mish)

def other(): return nn.Linear(2, 2)
"""


@pytest.fixture
def files(fork: Fork, tmp_path: Path) -> Path:
    torch.save(dict(state_dict={f'module.{k}': v for k, v in fork.state_dict().items()}), tmp_path / 'best.pth')
    (tmp_path / 'my_model.py').write_text(CODE)
    x = random_images(2, 3, 64)
    with torch.no_grad():
        torch.save(dict(images=x, logits=fork(x)), tmp_path / 'pair.pt')
        torch.save(dict(images=x, logits=fork(x).sigmoid()), tmp_path / 'wrong.pt')
    return tmp_path


def test_the_command_compares(files: Path) -> None:
    best, code = files / 'best.pth', files / 'my_model.py'
    plain = output_of('convert', best, files / 'a')
    assert 'assumed of the network: GELU, max pooling' in plain and '--compare or --check' in plain
    for number, options in enumerate(
        (('--compare', f'{code}:build'), ('--compare', f'{code}:wrapped'), ('--check', files / 'pair.pt'))
    ):
        output = output_of('convert', best, files / str(number), *options)
        assert 'compared: the logits match those' in output and 'GELU' not in output
    for options, words in (
        (('--compare', f'{code}:mish'), 's0.0.2 is Mish, not GELU'),
        (('--compare', f'{code}:other'), 'does not load the checkpoint'),
        (('--compare', f'{code}:missing'), 'missing cannot be imported from'),
        (('--check', files / 'wrong.pt'), '--compare FILE:FUNCTION'),
        (('--check', files / 'pair.pt', '--no-head'), 'no logits to compare; leave out head=False'),
        (('--check', best), 'is not a file with images and logits'),
        (('--check', files / 'nowhere.pt'), 'is not a file with images and logits'),
    ):
        assert words in refusal('convert', best, files / 'out', *options)
        assert not (files / 'out').exists()
    assert command('convert', best, files / 'out', '--compare', 'nowhere.py:build').exit_code == 2
    grey = torch.load(DATA / 'chinhsuanwu_digits_64_expected.pt', weights_only=True)
    torch.save(dict(images=grey['x'], logits=grey['logits']), files / 'grey.pt')
    options = '--in-chans', '3', '--check', files / 'grey.pt'
    assert 'images 3 channels' in output_of('convert', DATA / 'chinhsuanwu_digits_64.pth', files / 'out', *options)
