"""The model card: it says first how to load the network, and its code does load it."""

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from clients import client, draw_images
from command_line import output_of, refusal
from hub_server import HubServer
from peers import random_images

from coatnet_zoo.hub import make_folder_card

FACTS = ('--license', 'mit')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fine-tuned model, as timm saves it, with the card that a conversion writes."""
    model = timm.create_model('coatnet_atto', num_classes=3, in_chans=3, img_size=64)
    timm.models.save_for_hf(model, tmp_path / 'flowers', safe_serialization=True)
    config = json.loads((tmp_path / 'flowers' / 'config.json').read_text())
    (tmp_path / 'flowers' / 'README.md').write_text(make_folder_card('flowers', config, 463_000))
    return tmp_path / 'flowers'


def code(card: str, name: str) -> str:
    """The piece of code of a card that uses a program."""
    blocks = re.findall(r'^```python\n(.*?)^```', card, flags=re.MULTILINE | re.DOTALL)
    (block,) = (b for b in blocks if re.search(rf'^(from|import) {name}\b', b, flags=re.MULTILINE))
    assert block.startswith('import coatnet_zoo\n')
    return block


def test_loading_comes_first(folder: Path, hub: HubServer) -> None:
    output_of('push', folder, 'me/flowers', *FACTS)
    for card in ((folder / 'README.md').read_text(), hub.files('me/flowers')['README.md'].decode()):
        text = card.partition('# flowers\n')[2]
        words = ('import coatnet_zoo', 'coatnet-zoo autoload on', 'timm.create', 'transformers', 'fastai', 'M param')
        places = [text.index(word) for word in words]
        assert places == sorted(places) and places[0] < 100


def test_code_in_timm(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    output_of('push', folder, 'me/flowers', *FACTS)
    monkeypatch.chdir(folder.parent)
    local, published = {}, {}
    exec(code((folder / 'README.md').read_text(), 'timm'), local)
    exec(code(hub.files('me/flowers')['README.md'].decode(), 'timm'), published)
    x = random_images(2, 3, 64)
    torch.testing.assert_close(local['model'](x), published['model'](x), rtol=0, atol=0)
    assert 'size=(64, 64)' in str(local['transform'])


@pytest.mark.parametrize('published', [False, True])
def test_code_in_transformers(published: bool, folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    client('transformers')
    output_of('push', folder, 'me/flowers', *FACTS)
    monkeypatch.chdir(folder.parent)
    card = hub.files('me/flowers')['README.md'].decode() if published else (folder / 'README.md').read_text()
    names = {}
    exec(code(card, 'transformers'), names)
    x = random_images(2, 3, 64)
    expected = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()(x)
    torch.testing.assert_close(names['model'](x).logits, expected, rtol=0, atol=1e-5)
    assert names['processor'](torch.rand(3, 80, 80))['pixel_values'].shape == (1, 3, 64, 64)


@pytest.mark.parametrize('published', [False, True])
def test_code_in_fastai(published: bool, folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    fastai = client('fastai.vision.all')
    output_of('push', folder, 'me/flowers', *FACTS)
    monkeypatch.chdir(folder.parent)
    card = hub.files('me/flowers')['README.md'].decode() if published else (folder / 'README.md').read_text()
    draw_images(folder.parent / 'images')
    names = {'dls': fastai.ImageDataLoaders.from_folder(folder.parent / 'images', valid_pct=0.25, bs=2, num_workers=0)}
    exec(code(card, 'fastai'), names)
    assert names['learner'].model.eval()(random_images(2, 3, 64)).shape == (2, 3)


def test_a_folders_card_is_not_published(folder: Path, hub: HubServer) -> None:
    output_of('push', folder, 'me/flowers', *FACTS, '--data', 'my flowers')
    card = hub.files('me/flowers')['README.md'].decode()
    assert 'hf-hub:me/flowers' in card and 'local-dir' not in card and 'my flowers' in card
    assert '--license' in refusal('push', _without_licence(folder), 'me/others')
    (folder / 'README.md').write_text((folder / 'README.md').read_text() + 'Mine.\n')
    output_of('push', folder, 'me/flowers')
    assert hub.files('me/flowers')['README.md'] == (folder / 'README.md').read_bytes()


def _without_licence(folder: Path) -> Path:
    config = json.loads((folder / 'config.json').read_text())
    config['pretrained_cfg'].pop('license', None)
    (folder / 'config.json').write_text(json.dumps(config))
    return folder
