"""`push`: whatever the folder holds, one sentence or a publication; a dry run is as strict as the push."""

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
from command_line import command
from hub_server import HubServer
from obstacles import OBSTACLES, User, time_limit

SAFE, CONFIG, CARD = 'model.safetensors', 'config.json', 'README.md'
LICENSE = ('--license', 'mit')


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, as timm saves it."""
    model = timm.create_model(
        'coatnet_atto', num_classes=3, img_size=32, depths=(1, 1, 1, 1), embed_dim=(8, 8, 16, 16), dim_head=8
    )
    folder = tmp_path_factory.mktemp('saved')
    timm.models.save_for_hf(model, folder, safe_serialization=True, model_config=dict(label_names=['a', 'b', 'c']))
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / 'model'))


def push(folder: Path, *args: str, repo: str = 'me/flowers', dry: bool = True) -> str | None:
    """The sentence if nothing is published."""
    with time_limit(10.0):
        result = command('push', folder, repo, *args, *(['--dry-run'] if dry else []))
    if result.exit_code == 0:
        return None
    assert result.exit_code == 1 and len(result.output.strip().splitlines()) == 1, result.output
    return result.output


# One of every type of JSON, and odd ones.
VALUES: list[Any] = [None, True, -1, 1e400, '\ud800', [[]], {}]


def replaced(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The configuration with each of its values replaced by each value, and removed."""
    for place in ((), ('pretrained_cfg',), ('model_args',)):
        part = config
        for key in place:
            part = part[key]
        for key in part:
            for value in [*VALUES, ...]:
                changed = copy.deepcopy(config)
                target = changed
                for step in place:
                    target = target[step]
                target[key] = value
                if value is ...:
                    del target[key]
                yield f'{"/".join([*place, key])} = {value!r}', changed


def test_every_value_of_config_json(folder: Path, hub: HubServer) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config['pretrained_cfg'].update(label_descriptions={'a': 'A'}, license='mit')
    config['label_descriptions'] = None
    cases = [*replaced(config), *((repr(value), value) for value in VALUES)]
    published = []
    for name, changed in cases:
        (folder / CONFIG).write_text(json.dumps(changed))
        try:
            if push(folder) is None:
                published.append(name)
        except BaseException as e:
            raise AssertionError(name) from e
    assert hub.requests == []
    assert len(cases) > 200
    for name in ('architecture', 'pretrained_cfg', 'model_args'):
        assert not [case for case in published if case.startswith(f'{name} = ')], name


# What is done to the folder, with words of the sentence; None if it is published.
CASES: dict[str, tuple[Callable[[Path], object], str | None]] = {
    'as it is': (lambda f: None, None),
    'a card': (lambda f: (f / CARD).write_text('---\nlicense: mit\n---\n# Mine\n'), None),
    'a card without metadata': (lambda f: (f / CARD).write_text('# Mine\n'), None),
    'a card in Latin-1': (lambda f: (f / CARD).write_bytes('Größe'.encode('latin-1')), 'not a text in UTF-8'),
    'a card of 11 MB': (lambda f: (f / CARD).write_bytes(b'x' * 11_000_000), '11,000,000 bytes'),
    'a card with broken metadata': (lambda f: (f / CARD).write_text('---\na: [\n---\n'), 'model card'),
    'a card with a list': (lambda f: (f / CARD).write_text('---\n- a\n---\n'), 'model card'),
    'a configuration of 11 MB': (lambda f: (f / CONFIG).write_bytes(b' ' * 11_000_000), 'bytes'),
    'a configuration in UTF-16': (lambda f: (f / CONFIG).write_bytes('{}'.encode('utf-16')), 'not a text in UTF-8'),
    'a deep configuration': (lambda f: (f / CONFIG).write_text('[' * 100_000), 'is not JSON'),
    'empty weights': (lambda f: (f / SAFE).write_bytes(b''), 'safetensors'),
    'a pipe beside': (lambda f: os.mkfifo(f / 'pipe'), None),
    'a folder beside': (lambda f: (f / 'checkpoints').mkdir(), None),
    'a pickle with an odd name': (lambda f: (f / 'a\nb.pth').touch(), 'others would have to trust'),
    'many pickles': (lambda f: [(f / f'{i:03}.pt').touch() for i in range(500)], 'others would have to trust'),
    **{
        f'{name} is {obstacle}': (lambda f, n=name, o=obstacle: User(f / 'user').put(o, f / n), '')
        for name in (SAFE, CONFIG, CARD)
        for obstacle in OBSTACLES
    },
}


@pytest.mark.parametrize('case', CASES)
def test_folders(case: str, folder: Path, hub: HubServer) -> None:
    """The dry run asks nobody, and says what the push says."""
    change, words = CASES[case]
    change(folder)
    said = push(folder, *LICENSE)
    assert hub.requests == []
    assert push(folder, *LICENSE, dry=False) == said
    if words is None or (CARD in case and 'empty' in case):
        assert said is None and hub.requests
    elif 'a second name' not in case or CARD not in case:
        assert words in said and hub.requests == []


NAMES = [
    'flowers', 'a/b/c', '/a', 'a/', '/', '', 'me/fl owers', 'me/..', '../me', 'me/a..b', 'me/a--b', 'me/.a', 'me/a.',
    'me/a-', 'me/a.git', 'me/' + 'x' * 97, 'me/\x1b[2J', 'me/a\nb', 'me/ä', 'x' * 5000 + '/y', 'me/a:b', 'me/a@b',
    'me/-x', 'https://huggingface.co/me/x', 'me\\x', '~/x', './x',
]  # fmt: skip


@pytest.mark.parametrize('repo', NAMES, ids=lambda name: repr(name)[:20])
@pytest.mark.parametrize('dry', [True, False])
def test_names(repo: str, dry: bool, folder: Path, hub: HubServer) -> None:
    said = push(folder, *LICENSE, repo=repo, dry=dry)
    assert said and len(said) < 500 and said.strip().isprintable()
    assert hub.requests == []


ARGUMENTS = [
    ('--license', ''),
    ('--license', ' '),
    ('--license', 'mit', '--accuracy', 'nan'),
    ('--license', 'mit', '--accuracy', 'inf'),
    ('--license', 'mit', '--accuracy', '-1'),
    ('--license', 'mit', '--data', '\udcff'),
]


@pytest.mark.parametrize('args', ARGUMENTS, ids=str)
def test_arguments(args: tuple[str, ...], folder: Path, hub: HubServer) -> None:
    assert push(folder, *args)


@pytest.mark.parametrize('text', ['a\nb: c', '---', '"', "'", '{{', '#', ': [', '\x1b[2J'])
def test_texts_of_the_card(text: str, folder: Path, hub: HubServer) -> None:
    """What is said on the command line cannot break the metadata."""
    assert push(folder, '--license', text, '--data', text, '--source', text) is None


def test_a_hub_that_says_nothing(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('coatnet_zoo.hub.publish._TALK', 0.2)
    hub.silent = True
    assert 'no answer within' in push(folder, *LICENSE, dry=False)
