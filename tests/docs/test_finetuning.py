"""Takes the blocks of docs/finetuning.md and runs them in order, with a small network, small images and fewer epochs.

Set TIMM_REPO to a checkout of huggingface/pytorch-image-models.
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
    code = block.code
    for printed, here in (('coatnet_nano', 'local-dir:start'), ('Resize(256)', 'Resize(64)'), ('size=224', 'size=64')):
        code = code.replace(printed, here)
    code = re.sub(r'--epochs \d+ --warmup-epochs \d+', '--epochs 1 --warmup-epochs 0', code)
    return replace(block, code=re.sub(r'fine_tune\(\d+\)', 'fine_tune(1)', code))


def prepare(folder: Path) -> None:
    """The folder in which the page's reader sits: timm's scripts, photos by class, and pretrained weights."""
    lay_out_timms_scripts(folder)
    digits = load_digits()
    photos = [digits.images[digits.target == digit] * 15 for digit in CLASSES.values()]
    for name, right, other in zip(CLASSES, photos, photos[1:] + photos[:1], strict=True):
        (folder / 'all_photos' / name).mkdir(parents=True)
        for i, pixels in enumerate([*right[: PER_CLASS - WRONG], *other[-WRONG:]]):
            photo = Image.fromarray(pixels.astype('uint8')).resize((64, 64))
            photo.save(folder / 'all_photos' / name / f'{i}.png')
    model = timm.create_model('coatnet_atto', pretrained=True, in_chans=3)
    timm.models.save_for_hf(model, folder / 'start', safe_serialization=True)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of the page's blocks, but for those that need other software."""
    pytest.importorskip('pandas')
    folder = tmp_path_factory.mktemp('finetuning')
    prepare(folder)
    for block in BLOCKS:
        if 'install' not in block.words and not any(word.startswith('needs=') for word in block.words):
            run(smaller(block), folder)
    return folder


def test_a_fifth_of_each_class_is_for_validation(folder: Path) -> None:
    for name in CLASSES:
        train, val = ({p.name for p in (folder / 'photos' / part / name).iterdir()} for part in ('train', 'val'))
        assert (len(train), len(val)) == (PER_CLASS * 4 // 5, PER_CLASS // 5) and not train & val
    assert tuple((folder / 'labels.txt').read_text().split()) == tuple(CLASSES)


def test_the_first_training_changes_only_the_head(folder: Path) -> None:
    start = timm.create_model(f'local-dir:{folder / "start"}', pretrained=True)
    before = {name: tensor for name, tensor in start.named_parameters() if not name.startswith('head.')}
    files = (folder / 'runs' / name / 'last.pth.tar' for name in ('head', 'all'))
    head, everything = (torch.load(file, weights_only=False)['state_dict'] for file in files)
    assert all(torch.equal(head[name], tensor) for name, tensor in before.items())
    assert not any(torch.equal(everything[name], tensor) for name, tensor in before.items())


def test_every_photo_of_the_validation_has_an_answer(folder: Path) -> None:
    with (folder / 'predictions.csv').open(encoding='utf-8') as f:
        answers = list(csv.DictReader(f))
    assert len(answers) == len(CLASSES) * PER_CLASS // 5
    assert {row['label'] for row in answers} <= set(CLASSES)
    wrong = [row['filename'] for row in answers if row['label'] != Path(row['filename']).parent.name]
    assert sorted((folder / 'wrong.txt').read_text().split()) == sorted(f'photos/val/{name}' for name in wrong)


def test_fastai(folder: Path) -> None:
    (block,) = (block for block in BLOCKS if 'needs=fastai' in block.words)
    pytest.importorskip('fastai', reason='needs fastai')
    run(smaller(block), folder)
