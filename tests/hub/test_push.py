"""`coatnet-zoo push`: what it publishes, what it refuses, and its model card, whose code loads the network."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from clients import client, draw_images
from command_line import command, output_of, refusal
from hub_server import Fault, HubServer
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import _http
from peers import random_images

from coatnet_zoo.hub import make_folder_card

SAFE, CONFIG, CARD = 'model.safetensors', 'config.json', 'README.md'
FACTS = ('--license', 'mit', '--data', 'my flowers', '--accuracy', '91.5', '--source', 'run 7')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fine-tuned model, as timm saves it."""
    model = timm.create_model('coatnet_atto', num_classes=3, in_chans=3, img_size=64, depths=(1, 1, 1, 1))
    timm.models.save_for_hf(
        model, tmp_path / 'tuned', safe_serialization=True, model_config=dict(label_names=['a', 'b', 'c'])
    )
    return tmp_path / 'tuned'


@torch.inference_mode()
def test_push_and_load(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> None:
    hub.token = 'hf_secret'
    monkeypatch.setenv('HF_TOKEN', 'hf_secret')
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    text = output_of('push', folder, 'me/flowers', *FACTS)
    assert f'published {hub.url}/me/flowers' in text
    assert hub.uploads.private == {'me/flowers': False}
    assert set(hub.tokens) >= {'Bearer hf_secret'}
    files = hub.files('me/flowers')
    assert {name: files[name] for name in before} == before
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    card = ModelCard(files[CARD].decode())
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == (
        'mit', 'timm', 'image-classification',
    )  # fmt: skip
    for fact in ('my flowers', '91.5 % top-1', 'run 7', '`paper`', '64x64', '3 classes', "'hf-hub:me/flowers'"):
        assert fact in card.text, fact
    local = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    loaded = timm.create_model('hf-hub:me/flowers', pretrained=True, cache_dir=fresh_cache).eval()
    images = random_images(2, 3, (64, 64))
    torch.testing.assert_close(loaded(images), local(images), rtol=0.0, atol=0.0)


def test_dry_run_asks_nobody(folder: Path, hub: HubServer) -> None:
    text = output_of('push', folder, 'me/flowers', *FACTS, '--dry-run')
    assert hub.requests == []
    assert 'would publish me/flowers' in text and 'my flowers' in text and 'license: mit' in text
    for file in folder.iterdir():
        assert f'{file.name}  {file.stat().st_size:,} bytes' in text


def test_only_the_card_of_a_conversion_is_replaced(folder: Path, hub: HubServer) -> None:
    config = json.loads((folder / CONFIG).read_text())
    for card in (written := make_folder_card('tuned', config, 463_000), f'{written}Mine.\n'):
        (folder / CARD).write_text(card)
        output_of('push', folder, 'me/flowers', *(FACTS if card == written else ()))
        published = hub.files('me/flowers')[CARD].decode()
        assert published == card if card != written else 'my flowers' in published and 'local-dir' not in published
    assert 'is a card of your own, so --license, --data, --acc' in refusal('push', folder, 'me/flowers', *FACTS)


def test_push_again_and_in_private(folder: Path, hub: HubServer) -> None:
    output_of('push', folder, 'me/secret', *FACTS, '--private')
    assert hub.uploads.private == {'me/secret': True}
    output_of('push', folder, 'me/secret', *FACTS, '--private')
    output_of('push', folder, 'me/open', *FACTS)
    hub.requests.clear()
    assert 'already exists and is public' in refusal('push', folder, 'me/open', *FACTS, '--private')
    assert not any('commit' in path or 'lfs' in path for _, path in hub.requests)


@pytest.mark.parametrize('status', [401, 403, 429, 500])
def test_push_that_is_refused(status: int, folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has no password of the address; the next attempt succeeds."""
    with monkeypatch.context() as patch:
        patch.setattr(_http.time, 'sleep', lambda seconds: None)
        patch.setattr(constants, 'ENDPOINT', hub.url.replace('://', '://me:hunter2@'))
        hub.faults.extend([Fault('POST', status)] * 9)
        message = refusal('push', folder, 'me/flowers', *FACTS)
    assert 'me/flowers cannot be published' in message and str(status) in message and 'hunter2' not in message
    hub.faults.clear()
    output_of('push', folder, 'me/flowers', *FACTS)


def _config(folder: Path, change) -> None:
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


def _nan(folder: Path) -> None:
    state_dict = safetensors.torch.load_file(folder / SAFE)
    state_dict['stem.conv2.weight'][0, 0, 0, 0] = float('nan')
    safetensors.torch.save_file(state_dict, folder / SAFE)


def _link(folder: Path) -> None:
    (folder / SAFE).rename(folder.parent / 'elsewhere')
    (folder / SAFE).symlink_to(folder.parent / 'elsewhere')


# What is done to the folder, with words of the line that refuses the folder.
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    'no weights': (lambda f: (f / SAFE).unlink(), f'has no {SAFE}'),
    'a link': (_link, 'is a link'),
    'no JSON': (lambda f: (f / CONFIG).write_text('{'), 'cannot be published as'),
    'a deep configuration': (lambda f: (f / CONFIG).write_text('[' * 100_000), ''),
    'no implementation': (lambda f: _config(f, lambda c: c['model_args'].pop('impl')), 'save_for_hf'),
    'no preprocessing': (lambda f: _config(f, lambda c: c['pretrained_cfg'].pop('mean')), 'save_for_hf'),
    'another network': (lambda f: _config(f, lambda c: c.update(architecture='resnet18')), ''),
    'too many labels': (
        lambda f: _config(f, lambda c: c.update(label_names=['a'] * 4)),
        '4 labels, but the network has 3 classes',
    ),
    'labels that are no texts': (lambda f: _config(f, lambda c: c.update(label_names=[1, 2, 3])), 'label_names'),
    'NaN': (_nan, 'NaN or infinite values in stem.conv2.weight'),
    'other weights': (lambda f: _config(f, lambda c: c['model_args'].update(depths=[1, 1, 2, 1])), ''),
    'a card in Latin-1': (lambda f: (f / CARD).write_bytes('Größe'.encode('latin-1')), 'model card'),
    'a card with broken metadata': (lambda f: (f / CARD).write_text('---\na: [\n---\n'), 'model card'),
    'a card that is a folder': (lambda f: (f / CARD).mkdir(), 'Is a directory'),
    'no licence': (lambda f: _config(f, lambda c: c['pretrained_cfg'].pop('license', None)), '--license'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_folders_that_are_not_published(case: str, folder: Path, hub: HubServer) -> None:
    change, words = REFUSED[case]
    change(folder)
    facts = FACTS if case != 'no licence' else ()
    message = refusal('push', folder, 'me/flowers', *facts, '--dry-run')
    assert words in message and refusal('push', folder, 'me/flowers', *facts) == message
    assert hub.requests == []


REPOSITORIES = [
    'flowers', 'a/b/c', '/a', 'a/', '', 'me/fl owers', '../me', 'me/a..b', 'me/a--b', 'me/a.git', 'me/' + 'x' * 97,
    'me/\x1b[2J', 'me/a\nb', 'https://huggingface.co/me/x', './x',
]  # fmt: skip


@pytest.mark.parametrize('repo', REPOSITORIES, ids=lambda name: repr(name)[:20])
def test_odd_repositories(repo: str, folder: Path, hub: HubServer) -> None:
    message = refusal('push', folder, repo, *FACTS, '--dry-run')
    assert len(message) < 1000 and message.strip().isprintable()


@pytest.mark.parametrize('args', [('--license', ' '), ('--accuracy', '915'), ('--data', '\udcff')])
def test_odd_facts(args: tuple[str, ...], folder: Path, hub: HubServer) -> None:
    result = command('push', folder, 'me/flowers', *FACTS, *args)
    assert result.exit_code in (1, 2) and result.output.splitlines()[-1].startswith('Error: ')
    assert hub.requests == []


@pytest.mark.parametrize('text', ['a\nb: c', '---', '"', '{{', '$x', ': [', '\x1b[2J'])
def test_texts_of_the_card(text: str, folder: Path, hub: HubServer) -> None:
    """What the command line gives cannot break the metadata."""
    output_of('push', folder, 'me/flowers', '--license', text, '--data', text, '--source', text, '--dry-run')


def test_without_a_network(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http.time, 'sleep', lambda seconds: None)
    hub.stop()
    assert 'cannot be published' in refusal('push', folder, 'me/flowers', *FACTS)


# The model card.


def code(card: str, name: str) -> str:
    """The piece of code of a card that uses a program."""
    blocks = re.findall(r'^```python\n(.*?)^```', card, flags=re.MULTILINE | re.DOTALL)
    (block,) = (b for b in blocks if re.search(rf'^(from|import) {name}\b', b, flags=re.MULTILINE))
    assert block.startswith('import coatnet_zoo\n')
    return block


@pytest.fixture(params=['local', 'published'])
def card(request: pytest.FixtureRequest, folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The card that a conversion writes, and that of the repository, which replaces it."""
    config = json.loads((folder / CONFIG).read_text())
    (folder / CARD).write_text(make_folder_card('tuned', config, 463_000))
    output_of('push', folder, 'me/flowers', '--license', 'mit')
    monkeypatch.chdir(folder.parent)
    return hub.files('me/flowers')[CARD].decode() if request.param == 'published' else (folder / CARD).read_text()


@torch.inference_mode()
def test_code_in_timm(card: str, folder: Path) -> None:
    exec(code(card, 'timm'), names := {})
    x = random_images(2, 3, 64)
    expected = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()(x)
    torch.testing.assert_close(names['model'](x), expected, rtol=0, atol=0)
    assert 'size=(64, 64)' in str(names['transform'])


@torch.inference_mode()
def test_code_in_transformers(card: str, folder: Path) -> None:
    client('transformers')
    exec(code(card, 'transformers'), names := {})
    x = random_images(2, 3, 64)
    expected = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()(x)
    torch.testing.assert_close(names['model'](x).logits, expected, rtol=0, atol=1e-5)
    assert names['processor'](torch.rand(3, 80, 80))['pixel_values'].shape == (1, 3, 64, 64)


def test_code_in_fastai(card: str, folder: Path) -> None:
    fastai = client('fastai.vision.all')
    draw_images(folder.parent / 'images')
    dls = fastai.ImageDataLoaders.from_folder(folder.parent / 'images', valid_pct=0.25, bs=2, num_workers=0)
    exec(code(card, 'fastai'), names := dict(dls=dls))
    assert names['learner'].model.eval()(random_images(2, 3, 64)).shape == (2, 3)
