"""Takes the blocks of docs/finetuning.md and runs them in order, with a small network, small images and fewer epochs.

Set TIMM_REPO to a checkout of huggingface/pytorch-image-models for the blocks that run timm's scripts.
"""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from pages import Block, blocks, lay_out_timms_scripts, run
from PIL import Image
from sklearn.datasets import load_digits

CLASSES = {'eight': 8, 'one': 1, 'zero': 0}
PER_CLASS = 20
WRONG = 6  # photos that are in the folder of another class, so that the page has errors to look at
BLOCKS = blocks('docs/finetuning.md')


def smaller(block: Block) -> Block:
    """A block with the network of `prepare` in place of the network of the Hub, small images and one epoch."""
    code = block.code.replace('photos my_model', 'photos my_model --model start --epochs 1')
    code = code.replace('epochs=15', "model='start', epochs=1, val=0.2")
    for printed, here in (('coatnet_nano', 'local-dir:start'), ('Resize(256)', 'Resize(64)'), ('size=224', 'size=64')):
        code = code.replace(printed, here)
    code = re.sub(r'--epochs \d+ --warmup-epochs \d+', '--epochs 1 --warmup-epochs 0', code)
    return replace(block, code=re.sub(r'fine_tune\(\d+\)', 'fine_tune(1)', code))


def prepare(folder: Path) -> None:
    """The folder in which the page's reader sits: photos by part and class, and pretrained weights."""
    digits = load_digits()
    photos = [digits.images[digits.target == digit] * 15 for digit in CLASSES.values()]
    for name, right, other in zip(CLASSES, photos, photos[1:] + photos[:1], strict=True):
        for i, pixels in enumerate([*right[: PER_CLASS - WRONG], *other[-WRONG:]]):
            file = folder / 'photos' / ('train' if i % 5 else 'val') / name / f'{i}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype('uint8')).resize((64, 64)).save(file)
    model = timm.create_model('coatnet_atto', pretrained=True, in_chans=3)
    timm.models.save_for_hf(model, folder / 'start', safe_serialization=True)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of the page's blocks, but for those that need other software."""
    folder = tmp_path_factory.mktemp('finetuning')
    prepare(folder)
    for block in BLOCKS:
        if not {'install', 'timm', 'needs=fastai'} & {*block.words}:
            run(smaller(block), folder)
    return folder


@pytest.fixture(scope='module')
def runs(folder: Path) -> Path:
    """The folder with the results of timm's scripts, too."""
    lay_out_timms_scripts(folder)
    for block in BLOCKS:
        if 'timm' in block.words:
            run(smaller(block), folder)
    return folder / 'runs'


def table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding='utf-8') as f:
        return list(csv.DictReader(f))


def test_the_command_uses_all_photos_and_knows_its_errors(folder: Path) -> None:
    files = table(folder / 'my_model' / 'photos.csv')
    held_out = [row for row in files if row['split'] == 'val']
    assert (len(files), len(held_out)) == (len(CLASSES) * PER_CLASS, len(CLASSES) * PER_CLASS // 5)
    answers = {row['file']: row['label'] for row in table(folder / 'guesses.csv') if row['rank'] == '1'}
    assert {row['file']: row['guess'] for row in held_out} == answers
    wrong = {row['file'] for row in held_out if row['guess'] != row['label']}
    assert wrong and {*(folder / 'wrong.txt').read_text().split()} == wrong
    others = table(folder / 'my_other_model' / 'photos.csv')
    assert sum(row['split'] == 'val' for row in others) == sum(row['split'] == 'train' for row in files) // 5


def test_timms_first_training_changes_only_the_head(folder: Path, runs: Path) -> None:
    start = timm.create_model(f'local-dir:{folder / "start"}', pretrained=True)
    before = {name: tensor for name, tensor in start.named_parameters() if not name.startswith('head.')}
    files = (runs / name / 'last.pth.tar' for name in ('head', 'all'))
    head, everything = (torch.load(file, weights_only=False)['state_dict'] for file in files)
    assert all(torch.equal(head[name], tensor) for name, tensor in before.items())
    assert not any(torch.equal(everything[name], tensor) for name, tensor in before.items())


def test_fastai(folder: Path) -> None:
    (block,) = (block for block in BLOCKS if 'needs=fastai' in block.words)
    pytest.importorskip('fastai', reason='needs fastai')
    run(smaller(block), folder)
