"""`coatnet-zoo finetune`: what it reads, how it splits, what it writes, and that a resumed training is the same one."""

import csv
import gc
import resource
import shutil
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import pytest
import timm
import torch
from command_line import output_of
from hub_server import HubServer
from PIL import Image
from sklearn.datasets import load_digits

import coatnet_zoo
from coatnet_zoo import CoAtNet, FinetuneError, HubError
from coatnet_zoo.finetuning import _find_photos as find_photos

NAMES = ('one', 'two', 'zero')
SMALL = dict(model='coatnet_atto', img_size=32, epochs=3, batch_size=8)


def digits(digit: int, count: int) -> list[Image.Image]:
    data = load_digits()
    images = data.images[data.target == digit][:count]
    return [Image.fromarray((image * 15).astype('uint8')).resize((40, 40)) for image in images]


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photos of each of three classes."""
    gc.collect()  # a forked worker that destroys what tests of exports left may wait forever
    root = tmp_path_factory.mktemp('digits') / 'photos'
    for digit, name in ((0, 'zero'), (1, 'one'), (2, 'two')):
        (root / name).mkdir(parents=True)
        for i, image in enumerate(digits(digit, 10)):
            image.save(root / name / f'{i}.png')
    return root


def finetune(photos: Path, out: Path, stop_after: int = 99, **options) -> list[str]:
    """Train, or a part of it; return the lines that are printed."""
    lines = []

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith(f'epoch {stop_after},'):
            raise KeyboardInterrupt

    with patch('coatnet_zoo.finetuning._say', say):
        coatnet_zoo.finetune(photos, out, **{**SMALL, **options})
    return lines


@pytest.fixture(scope='module')
def tuned(photos: Path) -> Path:
    """The folder of a whole training, by the command."""
    options = [f'--{name.replace("_", "-")}={value}' for name, value in SMALL.items()]
    text = output_of('finetune', photos, photos.parent / 'tuned', *options)
    assert text.startswith('24 photos for training and 6 for validation, of 3 classes; 0 skipped\nepoch 1, train_loss')
    assert text.count('\nepoch ') == 3 and 'on the validation photos' in text.splitlines()[-1]
    return photos.parent / 'tuned'


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding='utf-8', newline='') as f:
        return list(csv.DictReader(f))


def test_the_folder_is_a_model_for_the_other_commands(tuned: Path, tmp_path: Path) -> None:
    model = timm.create_model(f'local-dir:{tuned}', pretrained=True).eval()
    assert (model.num_classes, model.in_chans, model.img_size) == (3, 3, (32, 32))
    held_out = [row for row in rows(tuned / 'photos.csv') if row['split'] == 'val']
    guesses = {row['file']: (row['guess'], float(row['probability'])) for row in held_out}
    table = tmp_path / 'guesses.csv'
    output_of('predict', *guesses, '--model', tuned, '--topk', '1', '--out', table)
    assert {row['file']: row['label'] for row in rows(table)} == {file: guess for file, (guess, _) in guesses.items()}
    for row in rows(table):
        assert float(row['probability']) == pytest.approx(guesses[row['file']][1], abs=1e-4)
    best = max(float(row['top1']) for row in rows(tuned / 'summary.csv'))
    assert best == pytest.approx(100 * sum(row['guess'] == row['label'] for row in held_out) / 6)
    card = output_of('push', tuned, 'me/digits', '--dry-run')
    facts = ('hf-hub:me/digits', 'photos: 24 photos for training', f'**Accuracy**: {best:.4g} % top-1', '--lr 0.0005')
    assert [fact for fact in facts if fact not in card] == []
    with Image.open(tuned / 'training.png') as picture:
        assert picture.size == (1300, 600)


def test_the_classifier_is_trained_first(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        finetune(photos, tmp_path / 'out', stop_after=1)
    found = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True)
    start = timm.create_model('coatnet_atto', pretrained=True, num_classes=3, in_chans=3, img_size=32)
    for name, tensor in found.named_parameters():
        assert name.startswith('head.') != torch.equal(tensor, start.get_parameter(name)), name


ALL = dict(seed=2**40, ema=True, mixup=0.2, from_scratch=True, grad_checkpointing=True)


@pytest.mark.parametrize('options', [{}, ALL], ids=['default', 'all'])
def test_a_resumed_training_has_the_same_weights(options: dict, photos: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    finetune(photos, whole, **options)
    for epoch in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            finetune(photos, parts, stop_after=epoch, **options, resume=True)
    finetune(photos, parts, **options, resume=True)
    for name in ('summary.csv', 'model.safetensors', 'photos.csv'):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
    one, other = (torch.load(folder / 'checkpoint.pt', weights_only=True) for folder in (whole, parts))
    for part in ('network', 'model'):
        torch.testing.assert_close(one[part], other[part], rtol=0, atol=0)
    torch.testing.assert_close(one['optimizer']['state'], other['optimizer']['state'], rtol=0, atol=0)
    if options:
        card = (whole / 'README.md').read_text()
        assert f'--seed {2**40} --from-scratch --ema --mixup 0.2 --batch-size 8 --grad-checkpointing`' in card
    with pytest.raises(FinetuneError, match='was made with different lr; use the same, or'):
        finetune(photos, parts, **options, resume=True, lr=1.0)
    parts = parts.rename(tmp_path / 'renamed')
    finetune(photos, parts, **{**options, 'grad_checkpointing': True, 'batch_size': 4}, resume=True)
    (parts / 'checkpoint.pt').unlink()
    with pytest.raises(FinetuneError, match=r'renamed lacks checkpoint\.pt, so it cannot continue; train into another'):
        finetune(photos, parts, **options, resume=True)


def test_equal_photos_are_on_one_side_and_names_do_not_matter(tmp_path: Path) -> None:
    for name, digit in (('a', 3), ('b', 4)):
        for i, image in enumerate(digits(digit, 10)):
            (tmp_path / name / f'deep{i}').mkdir(parents=True)
            image.save(tmp_path / name / f'deep{i}' / f'{9 - i}.png')
            image.save(tmp_path / name / f'{9 - i}.webp', lossless=True)  # the same stem, and the same pixels
    found = find_photos(tmp_path, None, 0, 0)
    before = {photo.digest: photo.split for photo in found}
    assert len(found) == 40 and len(before) == 20 and all(photo.split == before[photo.digest] for photo in found)
    assert Counter(photo.label for photo in found if photo.split == 'val') == {'a': 4, 'b': 4}
    assert Counter(photo.split for photo in find_photos(tmp_path, 0.99, 0, 0)) == {'train': 4, 'val': 36}
    for i, file in enumerate(sorted(tmp_path.rglob('*.webp'))):
        file.rename(file.with_name(f'renamed{7 * i % 20}.webp'))
    assert {photo.digest: photo.split for photo in find_photos(tmp_path, None, 0, 0)} == before
    assert {photo.digest: photo.split for photo in find_photos(tmp_path, None, 1, 0)} != before


def test_what_is_skipped_is_said(tmp_path: Path) -> None:
    root = tmp_path / 'photos'
    for name, images in (('cat', digits(3, 4)), ('dog', digits(4, 4)), ('one', digits(5, 1) * 2)):
        (root / name).mkdir(parents=True)
        for i, image in enumerate(images):
            image.save(root / name / f'{i}.png')
    whole = (root / 'cat' / '0.png').read_bytes()
    unreadable = {'cat/cut.png': whole[:80], 'cat/empty.jpg': b'', 'dog/Thumbs.db': b'x'}
    for name, content in {**unreadable, 'x.png': whole}.items():
        (root / name).write_bytes(content)
    for name in ('cat', 'dog'):
        digits(9, 1)[0].save(root / name / 'both.bmp')
    lines = finetune(root, tmp_path / 'out', epochs=1)
    assert lines[0] == '6 photos for training and 2 for validation, of 2 classes; 8 skipped'
    assert lines[1:9] == [row['problem'] for row in rows(tmp_path / 'out' / 'photos.csv') if row['split'] == 'skipped']
    for name in unreadable:
        assert any(line.startswith(f'{root / name} is not an image that can be read') for line in lines), name
    assert {line.removeprefix(f'{root}/') for line in lines[1:9] if 'read' not in line} == {
        'cat/both.bmp is also in the class dog.', 'dog/both.bmp is also in the class cat.',
        'one/0.png is the only photo of its class.', 'one/1.png is the only photo of its class.',
        'x.png is in no class folder.',
    }  # fmt: skip


@pytest.mark.parametrize('name', ['val', 'valid', 'validation', 'test', 'elsewhere'])
def test_folders_for_the_validation(name: str, photos: Path, tmp_path: Path) -> None:
    for part, pattern in (('train', '[0-4].png'), (name, '[4-6].png')):
        for file in (*photos.glob(f'one/{pattern}'), *photos.glob(f'two/{pattern}')):
            (tmp_path / part / file.parent.name).mkdir(parents=True, exist_ok=True)
            (tmp_path / part / file.parent.name / file.name).symlink_to(file)
    root, val = (tmp_path / 'train', tmp_path / name) if name == 'elsewhere' else (tmp_path, None)
    found = find_photos(root, val, 0, 0)
    assert Counter(photo.split for photo in found) == {'train': 8, 'val': 6, 'skipped': 2}
    assert {photo.file.name for photo in found if photo.split == 'skipped'} == {'4.png'}  # in both
    if name == 'elsewhere':
        (tmp_path / name).rename(tmp_path / 'train' / 'three')  # `train` alone
        assert Counter(photo.label for photo in find_photos(tmp_path, None, 0, 0)) == {'one': 5, 'two': 5, 'three': 6}
    else:  # a share splits the training anew
        assert Counter(photo.split for photo in find_photos(root, '0.4', 0, 0)) == {'train': 6, 'val': 4}


def test_photos_are_upright_and_of_any_mode(photos: Path, tmp_path: Path) -> None:
    image, exif = digits(7, 1)[0].resize((30, 40)), Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    (tmp_path / 'seven').mkdir()
    image.save(tmp_path / 'seven' / 'upright.png')
    image.rotate(90, expand=True).save(tmp_path / 'seven' / 'turned.png', exif=exif)
    image.convert('RGBA').save(tmp_path / 'seven' / 'colour.webp', lossless=True)
    image.convert('P').save(tmp_path / 'seven' / 'palette.gif')
    (tmp_path / 'one').symlink_to(photos / 'one')
    (tmp_path / 'seven' / 'other.png').symlink_to(photos / 'two' / '0.png')
    digests = Counter(photo.digest for photo in find_photos(tmp_path, None, 0, 0) if photo.label == 'seven')
    assert sorted(digests.values()) == [1, 4]


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(photos='nowhere'), 'There is no folder'),
        (dict(photos='empty'), 'empty needs two class folders or more, .*; it has 0'),
        (dict(photos='single'), 'single needs two class folders .*; it has 1'),
        (dict(val='single'), 'The validation set has stray, a class without training photos'),
        (dict(val='nowhere'), 'There is no folder nowhere'),
        (dict(val=1.0), 'A share of 1 cannot be held out'),
        (dict(out='empty'), 'empty already exists; choose another folder, or continue with --resume'),
        (dict(out='empty', resume=True), 'empty already exists'),
        (dict(photos='.', out='model'), 'is inside the folder of photos'),
        (dict(epochs=0), 'Epochs, batch size .* and lr must be above 0'),
        (dict(batch_size=1, mixup=0.2), r'batch size \(2 with mixup\)'),
        (dict(lr=1e30), r'The loss is not finite in epoch \d; try --lr below 1e\+30'),
        (dict(device='gpu'), 'The device gpu cannot be used'),
        (dict(model='coatnet_zero'), 'coatnet_zero'),
    ],
)
def test_one_line_errors(
    options: dict, message: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ('empty', 'single/stray'):
        Path(name).mkdir(parents=True)
    for i, image in enumerate(digits(8, 2)):
        image.save(f'single/stray/{i}.png')
    with pytest.raises((FinetuneError, coatnet_zoo.CheckpointError), match=message) as caught:
        finetune(**{'photos': photos, 'out': 'out', **options})
    assert '\n' not in str(caught.value)
    assert 'lr' in options or not Path('out').exists()


def test_without_a_network_it_names_the_ways_out(photos: Path, tmp_path: Path, hub: HubServer) -> None:
    hub.stop()
    ways = r'cannot be reached.*`coatnet-zoo pull coatnet_nano\.\w+ --dest FOLDER`.*--model coatnet_atto, whose'
    with pytest.raises(HubError, match=ways):
        finetune(photos, tmp_path / 'out', model='coatnet_nano')
    assert not (tmp_path / 'out').exists()


def test_short_memory_names_the_batch_size(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(model: CoAtNet, x: torch.Tensor) -> torch.Tensor:
        return torch.empty(1 << 60)

    monkeypatch.setattr(CoAtNet, 'forward', forward)
    with pytest.raises(FinetuneError, match=r'Out of memory .*; --resume with --batch-size 4 or --grad-checkpointing'):
        finetune(photos, tmp_path / 'out')


def test_a_full_disk_keeps_the_best_epoch(photos: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))  # enough for the model, not for the checkpoint
    try:
        with pytest.raises(FinetuneError, match=r'out cannot be written: .*keeps the best epoch so far'):
            finetune(photos, tmp_path / 'out')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True)
    assert [file.name for file in tmp_path.iterdir()] == ['out']  # nothing half-written
    finetune(photos, tmp_path / 'out', resume=True)


def test_a_photo_that_vanishes_and_the_checkpoint_of_another_program(photos: Path, tmp_path: Path) -> None:
    ones = Path(shutil.copytree(photos, tmp_path / 'photos'), 'one')
    message = r'There is no image .*one/\d\.png\. .*; continue with --resume'
    vanish = patch('coatnet_zoo.finetuning._say', lambda line: 'epoch 1,' in line and shutil.rmtree(ones))
    with vanish, pytest.raises(FinetuneError, match=message) as caught:
        coatnet_zoo.finetune(tmp_path / 'photos', tmp_path / 'out', **SMALL)
    assert '\n' not in str(caught.value)
    torch.save({'epoch': 1}, tmp_path / 'out' / 'checkpoint.pt')
    with pytest.raises(FinetuneError, match=r'checkpoint\.pt cannot be read'):
        finetune(photos, tmp_path / 'out', resume=True)
