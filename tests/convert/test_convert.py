"""The conversion of chinhsuanwu checkpoints, against that code's own outputs.

The fixture was trained with that code; its logits came with it. Where `COATNET_PYTORCH` names a checkout of
chinhsuanwu/coatnet-pytorch, its models are built with random weights and statistics and compared, too.
"""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import originals
import pytest
import timm
import torch
from checkpoint_bytes import FIXTURE, STATE_DICT
from command_line import output_of, refusal
from paths import DATA
from peers import assert_close, random_images, randomize_
from timm.layers.pos_embed_rel import gen_relative_position_index

from coatnet_zoo import CheckpointError, convert_checkpoint
from coatnet_zoo.convert import Conversion
from coatnet_zoo.convert.adapters import chinhsuanwu
from coatnet_zoo.files import CARD

EXPECTED = torch.load(DATA / 'chinhsuanwu_digits_64_expected.pt', weights_only=True)
STAGES = dict(stem_width=(16, 16), embed_dim=(16, 32, 64, 96), depths=(2, 2, 3, 2), in_chans=1, num_classes=10)


def load(folder: Path) -> torch.nn.Module:
    return timm.create_model(f'local-dir:{folder}', pretrained=True).eval()


def assert_logits(model: torch.nn.Module) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(EXPECTED['x']), EXPECTED['logits'], rtol=0, atol=1e-4)


def test_fixture_gives_the_logits_of_the_original_code(tmp_path: Path) -> None:
    result = convert_checkpoint(FIXTURE, tmp_path / 'out')
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['README.md', 'config.json', 'model.safetensors']
    assert_logits(load(tmp_path / 'out'))
    s = result.structure
    assert {name: getattr(s, name) for name in STAGES} == STAGES
    assert (s.block_types, s.num_heads, s.dim_head, s.img_size) == ('CCTT', 8, 32, (64, 64))
    assert result.num_params == 589_528


def test_tensors_that_share_memory(tmp_path: Path) -> None:
    """As after training with tied weights; the folder has plain copies."""
    tied = dict(STATE_DICT)
    tied['s3.1.ff.1.norm.weight'] = tied['s3.2.ff.1.norm.weight'] = torch.ones(64)
    torch.save(tied, tmp_path / 'best.pth')
    convert_checkpoint(tmp_path / 'best.pth', tmp_path / 'out')
    loaded = load(tmp_path / 'out').state_dict()
    assert torch.equal(loaded['stages.2.blocks.2.norm2.weight'], torch.ones(64))


def test_what_the_file_cannot_know_can_be_said(tmp_path: Path) -> None:
    labels = tmp_path / 'labels.txt'
    labels.write_text('\n'.join(f'digit {i}' for i in range(10)) + '\n')
    options = ['--mean', '0.5', '--std', '0.25', '--interpolation', 'bilinear', '--crop-pct', '0.9']
    options += ['--labels', labels, '--name', 'my_digits']
    assert 'Assumed, as the file' not in output_of('convert', FIXTURE, tmp_path / 'out', *options)
    cfg = load(tmp_path / 'out').pretrained_cfg
    assert (cfg['mean'], cfg['std'], cfg['interpolation'], cfg['crop_pct']) == ([0.5], [0.25], 'bilinear', 0.9)
    assert cfg['label_names'] == [f'digit {i}' for i in range(10)]
    assert cfg['tag'] == 'my_digits'
    assert list(cfg['input_size']) == [1, 64, 64]


def test_assumptions_are_said_and_a_card_is_written(tmp_path: Path) -> None:
    output = output_of('convert', FIXTURE, tmp_path / 'digits')
    assert 'as the file does not record the preprocessing: mean=(0.449,), std=(0.226,)' in output
    assert output.endswith('\nIf yours differs, give: --mean --std --interpolation --crop-pct\n')
    cfg = json.loads((tmp_path / 'digits' / 'config.json').read_text())['pretrained_cfg']
    assert (cfg['mean'], cfg['std']) == ([0.449], [0.226]) and 'license' not in cfg
    card = (tmp_path / 'digits' / CARD).read_text(encoding='utf-8')
    assert "timm.create_model('local-dir:digits', pretrained=True)" in card


@pytest.mark.parametrize('grid', [(1, 1), (1, 5), (2, 3), (3, 2), (4, 4), (2, 7), (7, 2)])
def test_grid_is_read_where_the_table_fits_several(grid: tuple[int, int]) -> None:
    height, width = grid
    state_dict = {
        'attn.1.fn.relative_bias_table': torch.zeros((2 * height - 1) * (2 * width - 1), 8),
        'attn.1.fn.relative_index': gen_relative_position_index(grid).reshape(-1, 1),
    }
    assert chinhsuanwu._grid(state_dict, '')[0] == grid


# `convert --in-chans 3`: three channels of one, exact for grey images, whatever the checkpoint is.


def save(model: torch.nn.Module, file: Path) -> Path:
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
    text = output_of('convert', file, tmp_path / 'colour', '--in-chans', '3', '--mean', '0.3,0.3,0.3', '--std', '0.25')
    assert 'images 3 channels' in text
    grey, colour = (timm.create_model(f'local-dir:{tmp_path / n}', pretrained=True).eval() for n in ('grey', 'colour'))
    assert (colour.in_chans, list(colour.pretrained_cfg['input_size'])) == (3, [3, 64, 64])
    assert (colour.pretrained_cfg['mean'], colour.pretrained_cfg['std']) == ([0.3] * 3, [0.25] * 3)
    x = random_images(4, 1, 64)
    torch.testing.assert_close(colour(x.expand(-1, 3, -1, -1)), grey(x), rtol=0, atol=1e-5)


def test_the_assumed_mean_is_that_of_grey_images(tmp_path: Path) -> None:
    convert_checkpoint(FIXTURE, tmp_path / 'out', in_chans=3)
    cfg = load(tmp_path / 'out').pretrained_cfg
    assert (cfg['mean'], cfg['std']) == ([0.449] * 3, [0.226] * 3)


@pytest.mark.parametrize('has, wanted', [(1, '2'), (1, '-3'), (2, '3')])
def test_other_changes_are_refused(has: int, wanted: str, tmp_path: Path) -> None:
    file = save(timm.create_model('coatnet_atto', in_chans=has), tmp_path / 'a.pth')
    message = refusal('convert', file, tmp_path / 'out', '--in-chans', wanted)
    assert f'in_chans={wanted} is not possible for a checkpoint of in_chans={has}' in message
    assert not (tmp_path / 'out').exists()


# Against a checkout of the original code.


@pytest.fixture(scope='module')
def coatnet_pytorch() -> ModuleType:
    return originals.coatnet_pytorch()


def compare(theirs: torch.nn.Module, x: torch.Tensor, tmp_path: Path) -> Conversion:
    """Convert a model of the original code with random weights and statistics; logits within 1e-4 relative."""
    randomize_(theirs)
    torch.save({'model': theirs.state_dict()}, tmp_path / 'best.pth')
    result = convert_checkpoint(tmp_path / 'best.pth', tmp_path / 'out')
    (tmp_path / 'best.pth').unlink()
    with torch.inference_mode():
        assert_close(load(tmp_path / 'out')(x), theirs(x), rel=1e-4)
    (tmp_path / 'out' / 'model.safetensors').unlink()
    return result


@pytest.mark.parametrize('i', range(5))
def test_published_sizes_equal_the_original(i: int, coatnet_pytorch: ModuleType, tmp_path: Path) -> None:
    theirs = getattr(coatnet_pytorch, f'coatnet_{i}')()
    result = compare(theirs, torch.randn(2, 3, 224, 224), tmp_path)
    assert result.size == f'coatnet_{i}'
    args = json.loads((tmp_path / 'out' / 'config.json').read_text())['model_args']
    assert args['impl'] == 'chinhsuanwu'


SMALL = dict(in_channels=3, num_blocks=[2, 2, 2, 2, 1], channels=[16, 24, 32, 48, 64], num_classes=10)
VARIANTS = {
    'CTTT': dict(SMALL, image_size=(96, 96), block_types=['C', 'T', 'T', 'T']),
    'TTTT': dict(SMALL, image_size=(64, 64), block_types=['T', 'T', 'T', 'T']),
    'CCCT': dict(SMALL, image_size=(64, 64), block_types=['C', 'C', 'C', 'T']),
    'CCCC': dict(SMALL, image_size=(224, 224), block_types=['C', 'C', 'C', 'C']),
    '32 px': dict(SMALL, image_size=(32, 32)),
    '384 px': dict(SMALL, image_size=(384, 384)),
    'channels and classes': dict(SMALL, image_size=(64, 64), in_channels=5, num_classes=37),
    'odd widths': dict(SMALL, image_size=(64, 64), channels=[10, 14, 22, 50, 70]),
    'one stem convolution': dict(SMALL, image_size=(64, 64), num_blocks=[1, 1, 1, 1, 2]),
    'three stem convolutions': dict(SMALL, image_size=(64, 64), num_blocks=[3, 1, 2, 12, 1]),
}


@pytest.mark.parametrize('variant', VARIANTS)
def test_variants_equal_the_original(variant: str, coatnet_pytorch: ModuleType, tmp_path: Path) -> None:
    args = VARIANTS[variant]
    x = torch.randn(3, args['in_channels'], *args['image_size'])
    result = compare(coatnet_pytorch.CoAtNet(**args), x, tmp_path)
    assert result.structure.block_types == ''.join(args.get('block_types', 'CCTT'))
    assert result.structure.depths == tuple(args['num_blocks'][1:])


@pytest.mark.parametrize('heads, dim_head, width', [(4, 16, 24), (2, 64, 24), (1, 32, 32)])
def test_other_heads_equal_the_original(
    heads: int, dim_head: int, width: int, coatnet_pytorch: ModuleType, tmp_path: Path, monkeypatch
) -> None:
    """The last case has no `to_out`: that code leaves it out where one head is as wide as the block's input."""
    monkeypatch.setattr(coatnet_pytorch.Transformer.__init__, '__defaults__', (heads, dim_head, False, 0.0))
    theirs = coatnet_pytorch.CoAtNet(**dict(SMALL, image_size=(64, 64), channels=[16, 16, width, width, width]))
    assert any('to_out' in k for k in theirs.state_dict()) == (heads > 1)
    result = compare(theirs, torch.randn(3, 3, 64, 64), tmp_path)
    assert (result.structure.num_heads, result.structure.dim_head) == (heads, dim_head)


@pytest.mark.parametrize('side', [64, 96])
def test_network_without_attention_is_told_its_size(side: int, coatnet_pytorch: ModuleType, tmp_path: Path) -> None:
    theirs = randomize_(coatnet_pytorch.CoAtNet(**{**VARIANTS['CCCC'], 'image_size': (side, side)}))
    torch.save(theirs.state_dict(), tmp_path / 'best.pth')
    convert_checkpoint(tmp_path / 'best.pth', tmp_path / 'out', img_size=side)
    model = load(tmp_path / 'out')
    assert model.img_size == (side, side)
    x = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        assert_close(model(x), theirs(x), rel=1e-4)
    with pytest.raises(CheckpointError, match='was trained at'):
        convert_checkpoint(FIXTURE, tmp_path / 'other', img_size=96)
