"""The model card: it says first how to load the network, and its code does load it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from clients import client, draw_images
from command_line import output_of
from hub_server import HubServer
from peers import random_images

from coatnet_zoo.hub import make_folder_card

FACTS = ('--license', 'mit')
CARD = 'README.md'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fine-tuned model, as timm saves it, with the card that a conversion writes."""
    model = timm.create_model('coatnet_atto', num_classes=3, in_chans=3, img_size=64)
    timm.models.save_for_hf(model, tmp_path / 'flowers', safe_serialization=True)
    config = json.loads((tmp_path / 'flowers' / 'config.json').read_text())
    (tmp_path / 'flowers' / CARD).write_text(make_folder_card('flowers', config, 463_000))
    return tmp_path / 'flowers'


def code(card: str, name: str) -> str:
    """The piece of code of a card that uses a program."""
    blocks = re.findall(r'^```python\n(.*?)^```', card, flags=re.MULTILINE | re.DOTALL)
    (block,) = (b for b in blocks if re.search(rf'^(from|import) {name}\b', b, flags=re.MULTILINE))
    assert block.startswith('import coatnet_zoo\n')
    return block


def test_loading_comes_first(folder: Path, hub: HubServer) -> None:
    output_of('push', folder, 'me/flowers', *FACTS)
    for card in ((folder / CARD).read_text(), hub.files('me/flowers')[CARD].decode()):
        text = card.partition('# flowers\n')[2]
        words = ('import coatnet_zoo', 'coatnet-zoo autoload on', 'timm.create', 'transformers', 'fastai', 'M param')
        places = [text.index(word) for word in words]
        assert places == sorted(places) and places[0] < 100


@pytest.fixture(params=['local', 'published'])
def card(request: pytest.FixtureRequest, folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The card of the folder, and of its repository."""
    output_of('push', folder, 'me/flowers', *FACTS)
    monkeypatch.chdir(folder.parent)
    return hub.files('me/flowers')[CARD].decode() if request.param == 'published' else (folder / CARD).read_text()


def run(code_: str, **names: Any) -> dict[str, Any]:
    exec(code_, names)
    return names


@torch.inference_mode()
def test_code_in_timm(card: str, folder: Path) -> None:
    names = run(code(card, 'timm'))
    x = random_images(2, 3, 64)
    expected = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()(x)
    torch.testing.assert_close(names['model'](x), expected, rtol=0, atol=0)
    assert 'size=(64, 64)' in str(names['transform'])


@torch.inference_mode()
def test_code_in_transformers(card: str, folder: Path) -> None:
    client('transformers')
    names = run(code(card, 'transformers'))
    x = random_images(2, 3, 64)
    expected = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()(x)
    torch.testing.assert_close(names['model'](x).logits, expected, rtol=0, atol=1e-5)
    assert names['processor'](torch.rand(3, 80, 80))['pixel_values'].shape == (1, 3, 64, 64)


def test_code_in_fastai(card: str, folder: Path) -> None:
    fastai = client('fastai.vision.all')
    draw_images(folder.parent / 'images')
    dls = fastai.ImageDataLoaders.from_folder(folder.parent / 'images', valid_pct=0.25, bs=2, num_workers=0)
    learner = run(code(card, 'fastai'), dls=dls)['learner']
    assert learner.model.eval()(random_images(2, 3, 64)).shape == (2, 3)


def test_a_folders_card_is_not_published(folder: Path, hub: HubServer) -> None:
    output_of('push', folder, 'me/flowers', *FACTS, '--data', 'my flowers')
    card = hub.files('me/flowers')[CARD].decode()
    assert 'hf-hub:me/flowers' in card and 'local-dir' not in card and 'my flowers' in card
    (folder / CARD).write_text((folder / CARD).read_text() + 'Mine.\n')
    output_of('push', folder, 'me/flowers')
    assert hub.files('me/flowers')[CARD] == (folder / CARD).read_bytes()
