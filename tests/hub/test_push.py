"""`coatnet-zoo push`: what it publishes, and what it refuses to."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from command_line import output_of, refusal
from hub_server import Fault, HubServer
from huggingface_hub import ModelCard
from peers import random_images

SAFE = 'model.safetensors'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fine-tuned model, as timm saves it."""
    model = timm.create_model('coatnet_atto', num_classes=3, in_chans=3, img_size=64)
    timm.models.save_for_hf(
        model, tmp_path / 'tuned', safe_serialization=True, model_config=dict(label_names=['a', 'b', 'c'])
    )
    return tmp_path / 'tuned'


CARD = ('--license', 'mit', '--data', 'my flowers', '--accuracy', '91.5', '--source', 'run 7')


@torch.inference_mode()
def test_push_and_load(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> None:
    hub.token = 'hf_secret'
    monkeypatch.setenv('HF_TOKEN', 'hf_secret')
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    text = output_of('push', folder, 'me/flowers', *CARD)
    assert f'published {hub.url}/me/flowers' in text
    assert hub.uploads.private == {'me/flowers': False}
    assert set(hub.tokens) >= {'Bearer hf_secret'}
    files = hub.files('me/flowers')
    assert {name: files[name] for name in before} == before
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    card = ModelCard(files['README.md'].decode())
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
    text = output_of('push', folder, 'me/flowers', *CARD, '--dry-run')
    assert hub.requests == []
    assert 'would publish me/flowers' in text and 'my flowers' in text and 'license: mit' in text
    for file in folder.iterdir():
        assert f'{file.name}  {file.stat().st_size:,} bytes' in text


def test_existing_card_is_kept(folder: Path, hub: HubServer) -> None:
    (folder / 'README.md').write_text('---\nlicense: mit\n---\n# Mine\n')
    output_of('push', folder, 'me/flowers')
    assert hub.files('me/flowers')['README.md'] == (folder / 'README.md').read_bytes()


def test_push_again_and_in_private(folder: Path, hub: HubServer) -> None:
    output_of('push', folder, 'me/secret', *CARD, '--private')
    assert hub.uploads.private == {'me/secret': True}
    output_of('push', folder, 'me/secret', *CARD, '--private')
    output_of('push', folder, 'me/open', *CARD)
    hub.requests.clear()
    assert 'exists already and is public' in refusal('push', folder, 'me/open', *CARD, '--private')
    assert not any('commit' in path or 'lfs' in path for _, path in hub.requests)


@pytest.mark.parametrize('status', [401, 403, 500])
def test_push_that_is_refused(status: int, folder: Path, hub: HubServer) -> None:
    hub.faults.append(Fault('POST', status))
    message = refusal('push', folder, 'me/flowers', *CARD)
    assert 'me/flowers cannot be published' in message and str(status) in message
    hub.faults.clear()
    output_of('push', folder, 'me/flowers', *CARD)


def _config(folder: Path, change) -> None:
    config = json.loads((folder / 'config.json').read_text())
    change(config)
    (folder / 'config.json').write_text(json.dumps(config))


def _nan(folder: Path) -> None:
    state_dict = safetensors.torch.load_file(folder / SAFE)
    state_dict['stem.conv2.weight'][0, 0, 0, 0] = float('nan')
    safetensors.torch.save_file(state_dict, folder / SAFE)


def _link(folder: Path) -> None:
    (folder / SAFE).rename(folder.parent / 'elsewhere')
    (folder / SAFE).symlink_to(folder.parent / 'elsewhere')


REFUSED = {
    'no weights': (lambda f: (f / SAFE).unlink(), f'has no {SAFE}'),
    'no configuration': (lambda f: (f / 'config.json').unlink(), 'has no config.json'),
    'a pickle': (lambda f: (f / 'pytorch_model.bin').write_bytes(b''), 'pytorch_model.bin'),
    'another pickle': (lambda f: (f / 'best.PTH').write_bytes(b''), 'best.PTH'),
    'a link': (_link, 'is a link to'),
    'no JSON': (lambda f: (f / 'config.json').write_text('{'), 'is not JSON'),
    'a list': (lambda f: (f / 'config.json').write_text('[]'), 'save_for_hf'),
    'no implementation': (lambda f: _config(f, lambda c: c['model_args'].pop('impl')), 'save_for_hf'),
    'no preprocessing': (lambda f: _config(f, lambda c: c['pretrained_cfg'].pop('mean')), 'save_for_hf'),
    'another network': (lambda f: _config(f, lambda c: c.update(architecture='resnet18')), "'resnet18'"),
    'too many labels': (
        lambda f: _config(f, lambda c: c['pretrained_cfg'].update(label_names=['a'] * 4)),
        '4 labels, but the network has 3 classes',
    ),
    'NaN': (_nan, 'NaN or infinite values in stem.conv2.weight'),
    'other weights': (lambda f: _config(f, lambda c: c['model_args'].update(depths=[1, 1, 1, 1])), 'does not fit'),
    'half the weights': (lambda f: (f / SAFE).write_bytes((f / SAFE).read_bytes()[:9999]), 'not a whole safetensors'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_folders_that_are_not_published(case: str, folder: Path, hub: HubServer) -> None:
    change, words = REFUSED[case]
    change(folder)
    assert words in refusal('push', folder, 'me/flowers', *CARD)
    assert hub.requests == []


@pytest.mark.parametrize(
    'args, words',
    [
        (('flowers', *CARD), 'ORG/NAME'),
        (('me/flowers/x', *CARD), 'ORG/NAME'),
        (('me/flowers', '--license', 'mit', '--accuracy', '915'), 'between 0 and 100'),
    ],
)
def test_arguments_of_push(args: tuple[str, ...], words: str, folder: Path, hub: HubServer) -> None:
    assert words in refusal('push', folder, *args)
    assert hub.requests == []


def test_push_needs_a_licence(folder: Path, hub: HubServer) -> None:
    _config(folder, lambda c: c['pretrained_cfg'].pop('license', None))
    assert '--license' in refusal('push', folder, 'me/flowers')
