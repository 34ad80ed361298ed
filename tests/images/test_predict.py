"""`coatnet-zoo predict`: the classes of files, folders and patterns; bad images cost only their own answers."""

import csv
import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from click.testing import Result
from command_line import command, output_of, refusal
from paths import DATA
from PIL import Image
from timm.data import create_dataset, create_transform, resolve_model_data_config
from torch import nn

from coatnet_zoo import CoAtNet
from coatnet_zoo.images import Guess, Prediction, classify, data_config, find_images, logits_of, readable
from coatnet_zoo_runtime import prepare

DIGITS = DATA / 'digits'
NAMES = sorted(file.name for file in DIGITS.iterdir())
SEVEN = DIGITS / '7_row1496.png'


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a digit 7, a folder of digits, other files, hidden files, and a link in a circle."""
    photos = tmp_path / 'photos'
    (photos / 'more').mkdir(parents=True)
    (photos / '.thumbnails').mkdir()
    places = ('img_10.PNG', 'img_9.png', 'more/img_1.png', '.hidden.png', '.thumbnails/img.png', '[7].name')
    for place in places:
        shutil.copy(SEVEN, photos / place)
    for name in ('notes.txt', 'film.mpg', 'table.h5'):
        (photos / name).write_text('text')
    (photos / 'more' / 'circle').symlink_to(photos)
    return photos


def predict(*args: str | Path, model: str | Path = 'coatnet_atto') -> Result:
    return command('predict', *args, '--model', model)


def predicted(*args: str | Path, **options: str | Path) -> list[dict]:
    result = predict(*args, '--json', **options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@torch.no_grad()
def test_probabilities_are_those_of_timm(digits: CoAtNet) -> None:
    """Of timm's own data set, as its scripts make it for one channel; at every size of batch, and optimised."""
    config = resolve_model_data_config(digits)
    timms = create_dataset('', str(DIGITS.parent), input_img_mode='L', transform=create_transform(**config))
    images = {Path(timms.filename(i)).name: timms[i][0] for i in range(len(timms))}
    expected = digits(torch.stack([images[name] for name in NAMES])).softmax(1).topk(3)
    for options in ([], ['--batch-size', '3'], ['--batch-size', '1', '--optimize']):
        answers = predicted(DIGITS, '--topk', '3', *options)
        assert [Path(answer['file']).name for answer in answers] == NAMES
        guesses = [answer['predictions'] for answer in answers]
        assert [[g['index'] for g in row] for row in guesses] == expected.indices.tolist()
        assert all(g['label'] == str(g['index']) for row in guesses for g in row)
        values = torch.tensor([[g['probability'] for g in row] for row in guesses])
        torch.testing.assert_close(values, expected.values, rtol=0, atol=1e-5)


def test_there_is_never_more_than_one_batch_in_memory(digits: CoAtNet, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    batches: list[int] = []
    real = classify.__globals__['open_image']

    def note(file: Path) -> Image.Image:
        opened.append(file)
        return real(file)

    monkeypatch.setitem(classify.__globals__, 'open_image', note)
    prepare_it, files = partial(prepare, preprocessing=data_config(digits, digits.img_size)), sorted(DIGITS.iterdir())
    handle = digits.register_forward_hook(lambda _, args, __: batches.append(len(args[0])))
    for i, _ in enumerate(classify(logits_of(digits), prepare_it, None, files, topk=1, batch_size=4)):
        assert len(opened) == min(i // 4 * 4 + 4, len(NAMES))
    handle.remove()
    assert batches == [4, 4, 2]


@pytest.mark.parametrize(
    'sources, expected',
    [
        (['img_9.png', './img_9.png'], ['img_9.png']),
        (['.'], ['img_9.png', 'img_10.PNG', 'more/img_1.png']),
        (['img_10.PNG', '.'], ['img_10.PNG', 'img_9.png', 'more/img_1.png']),
        (['img_*'], ['img_9.png', 'img_10.PNG']),
        (['*/img_?.png', 'img_?.png'], ['more/img_1.png', 'img_9.png']),
        (['.hidden.png', '[7].name'], ['.hidden.png', '[7].name']),
    ],
)  # fmt: skip
def test_sources(sources: list[str], expected: list[str], photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    files, problems = find_images(sources)
    assert [str(file) for file in files] == expected and not problems


def test_a_bad_image_costs_only_its_own_answer(tmp_path: Path) -> None:
    (tmp_path / 'b\nad.png').write_text('text')
    files = (SEVEN, tmp_path / 'b\nad.png', DIGITS / NAMES[1], tmp_path / 'no.png')
    result = predict(*files, '--json', '--batch-size', '2')
    assert result.exit_code == 1
    assert [row['predictions'][0]['label'] for row in json.loads(result.stdout)] == ['7', '1']
    bad, missing = result.stderr.splitlines()
    assert bad.startswith('Error: ') and r'b\nad.png is not an image that can be read' in bad
    assert missing == f'Error: There is no image {tmp_path / "no.png"}.'


def test_transparent_parts_are_white_and_said(tmp_path: Path) -> None:
    """The digit is in the alpha channel alone."""
    seven = Image.open(SEVEN).convert('L')
    white = Image.merge('LA', (seven.point(lambda _: 255), seven.point(lambda v: 255 - v)))
    black = Image.merge('LA', (seven.point(lambda _: 0), seven.point(lambda v: 255 - v)))
    white.save(tmp_path / 'white.png')
    black.save(tmp_path / 'black.png')
    result = predict(SEVEN, tmp_path / 'white.png', tmp_path / 'black.png', '--json')
    seen, blank, dark = (row['predictions'] for row in json.loads(result.stdout))
    assert seen == dark != blank
    assert result.stderr == 'Transparent parts of 2 of 3 images were put on white.\n'


def test_without_any_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    result = predict('*.gif', 'empty', 'none.png', '--out', 'o.csv')
    assert result.exit_code == 1 and result.stdout == '' and os.listdir() == ['empty']
    messages = ('No file matches *.gif.', 'The folder empty has no images.', 'There is no image none.png.')
    assert result.stderr.splitlines() == [f'Error: {line}' for line in messages]


def saved(folder: Path, classes: int) -> Path:
    """A folder with a small network of random weights."""
    args = dict(img_size=32, embed_dim=(8, 8, 8, 8), depths=(1, 1, 1, 1), stem_width=(8, 8), dim_head=8)
    model = timm.create_model('coatnet_nano', in_chans=1, num_classes=classes, **args)
    model.pretrained_cfg.update(mean=(0.5,), std=(0.5,))
    timm.models.save_for_hf(model, folder, model_args=args, safe_serialization=True)
    return folder


def test_a_model_without_labels_says_so(tmp_path: Path) -> None:
    folder = saved(tmp_path / 'm', 3)
    result = predict(SEVEN, '--topk', '9', model=folder)
    assert result.stderr == 'The model has no label names; classes are numbers.\n'
    name, *rows = result.stdout.splitlines()
    assert name == str(SEVEN) and sorted(row.split()[1] for row in rows) == ['0', '1', '2']
    (answer,) = predicted(SEVEN, model=folder)
    assert {guess['label'] for guess in answer['predictions']} == {None}
    assert sum(guess['probability'] for guess in answer['predictions']) == pytest.approx(1)
    assert 'class ' in predict(SEVEN, DIGITS / NAMES[0], model=folder).stdout


def test_models_that_cannot_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 'no classifier' in refusal('predict', SEVEN, '--model', saved(tmp_path / 'none', 0))
    assert 'nothing' in refusal('predict', SEVEN, '--model', 'nothing')
    assert refusal('predict', SEVEN, '--model', 'coatnet_atto', '--img-size', '16').endswith('from 32 to 8192).\n')
    broken = timm.create_model('coatnet_atto.digits', pretrained=True).eval()
    nn.init.constant_(broken.head.fc.bias, torch.nan)
    monkeypatch.setattr('coatnet_zoo.factory.load_model', lambda *_: broken)
    assert f'{SEVEN} are not finite' in refusal('predict', SEVEN, '--model', 'broken')


def test_one_image_for_reading() -> None:
    first, *rows = output_of('predict', SEVEN, '--model', 'coatnet_atto', '--topk', '2').splitlines()
    assert first == str(SEVEN)
    assert [row.split()[1:] for row in rows] == [['7', '7'], ['4', '4']] and rows[0].startswith(' 92.50%')


def test_many_images_for_reading() -> None:
    lines = predict(DIGITS, SEVEN, '--topk', '2').stdout.splitlines()
    assert [Path(line.split()[0]).name for line in lines] == NAMES
    assert [line.split()[2] for line in lines] == [name[0] for name in NAMES]
    assert len({line.index('%') for line in lines}) == len({line.rindex('%') for line in lines}) == 1


@pytest.mark.parametrize('width, guesses', [(20, 1), (60, 1), (160, 2), (200, 3), (None, 3)])
def test_lines_fit_the_terminal(width: int | None, guesses: int) -> None:
    labels = ['tench', 'great white shark, white shark, man-eater, man-eating shark', 'evil\x1b[31m']
    rows = [
        Prediction(Path(f'photos/{"x" * 30 * i}/{i}.jpg'), tuple(Guess(j, labels[(i + j) % 3], 0.5) for j in range(3)))
        for i in range(3)
    ]
    lines = list(readable(rows, width))
    assert {line.count('%') for line in lines} == {guesses} and '\x1b' not in ''.join(lines)
    assert len({line.index('%') for line in lines}) == 1
    if width != 20:
        assert all(line.split('  ')[0].endswith(f'{i}.jpg') for i, line in enumerate(lines))
        assert max(map(len, lines)) <= (width or 1000)


def test_csv(tmp_path: Path) -> None:
    out = tmp_path / 'o.csv'
    out.write_text('old')
    strange = tmp_path / os.fsdecode(b'a,"\xff.png')
    shutil.copy(SEVEN, strange)
    result = predict(SEVEN, strange, '--out', out, '--topk', '2')
    assert result.exit_code == 0 and result.stdout == f'wrote {out}, with 2 of 2 images\n'
    with out.open(newline='', errors='surrogateescape') as file:
        header, *rows = csv.reader(file)
    assert header == ['file', 'rank', 'index', 'label', 'probability']
    assert [row[:4] for row in rows] == [
        [str(file), rank, label, label] for file in (SEVEN, strange) for rank, label in (('1', '7'), ('2', '4'))
    ]
    both = predict(SEVEN, '--out', out, '--json')
    assert json.loads(both.stdout) and both.stderr.startswith('wrote ') and len(out.read_text().splitlines()) == 6


def test_a_place_that_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('coatnet_zoo.factory.load_model', lambda _: pytest.fail('too late'))
    message = refusal('predict', SEVEN, '--model', 'coatnet_atto', '--out', tmp_path / 'o.json')
    assert 'does not end in .csv' in message


@pytest.mark.parametrize('size, is_terminal, bar', [('10', True, False), ('9', True, True), ('9', False, False)])
def test_long_steps_on_a_terminal(size: str, is_terminal: bool, bar: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line before the model is loaded, and a progress bar for more than one batch, on stderr."""
    monkeypatch.setattr('click.testing._NamedTextIOWrapper.isatty', lambda file: is_terminal, raising=False)
    result = predict(DIGITS, '--json', '--batch-size', size)
    assert len(json.loads(result.stdout)) == 10
    assert ('loading coatnet_atto ...' in result.stderr) == is_terminal
    assert ('10 images' in result.stderr and '100%' in result.stderr) == bar
