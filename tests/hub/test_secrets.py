"""Passwords of HF_ENDPOINT, tokens and signed addresses are in no message."""

from pathlib import Path

import pytest
from hub_server import Fault, HubServer
from huggingface_hub import constants
from huggingface_hub.utils import _http

from coatnet_zoo import HubError
from coatnet_zoo.hub import fetch_weights, one_line
from coatnet_zoo.hub.messages import without_secrets

REPO = 'timm/anything'
SAFE = 'model.safetensors'
TOKEN = 'hf_tokenOfTheUser'
# The password as it is in HF_ENDPOINT, and what must not be printed of it.
PASSWORDS = {'hunter2': ['hunter2'], 'p%40ss%2Fw0rd': ['p%40ss', 'p@ss'], 'a:b': ['a:b'], 'e': [':e@']}
SIGNED = '/signed/file?X-Amz-Signature=c0ffee&Expires=1'


def point(monkeypatch: pytest.MonkeyPatch, hub: HubServer, password: str) -> None:
    """Have the Hub's address a login."""
    endpoint = hub.url.replace('://', f'://me:{password}@')
    monkeypatch.setattr(constants, 'ENDPOINT', endpoint)
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', endpoint + '/{repo_id}/resolve/{revision}/{filename}')
    monkeypatch.setattr(_http.time, 'sleep', lambda seconds: None)
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    hub.add_repo(REPO, {SAFE: bytes(1000)})


FAULTS = {
    'HEAD 401': [Fault('HEAD', 401, {'X-Error-Message': f'{TOKEN} is no token'})] * 9,
    'HEAD 404': [Fault('HEAD', 404)] * 9,
    'GET 403': [Fault('GET', 403, {'X-Error-Message': f'not {TOKEN}'})] * 9,
    'redirected, GET 403': [Fault('GET', 302, {'Location': SIGNED}), Fault('GET', 403)] * 9,
    'redirected to nowhere': [Fault('GET', 302, {'Location': 'http://127.0.0.1:1' + SIGNED})] * 9,
    'redirected to another scheme': [Fault('GET', 302, {'Location': 'ftp://x:y0urs@h' + SIGNED})] * 9,
}


@pytest.mark.parametrize('password', PASSWORDS)
@pytest.mark.parametrize('case', FAULTS)
def test_fetching(case: str, password: str, hub: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point(monkeypatch, hub, password)
    hub.faults.extend(FAULTS[case])
    with pytest.raises(HubError) as caught:
        fetch_weights(REPO, cache_dir=fresh_cache)
    for secret in [*PASSWORDS[password], TOKEN, 'c0ffee', 'y0urs']:
        assert secret not in str(caught.value)
    assert hub.tokens[0].startswith('Basic ')


TEXTS = {
    'https://me:pw@host/x': 'https://host/x',
    'https://token@host': 'https://host',
    'https://me:p@w@host/x?y=1': 'https://host/x',
    "for url 'https://cdn/a?Signature=abc&Key=1' here": "for url 'https://cdn/a' here",
    '(/relative?sig=abc)': '(/relative)',
    'a question? yes = no': 'a question? yes = no',
    'bell\a\x1b[31m and\u200bmore': 'bell\\x07\\x1b[31m and\\u200bmore',
    'x' * 5000: 'x' * 1000 + '...',
}


@pytest.mark.parametrize('text', TEXTS, ids=lambda text: text[:20])
def test_texts(text: str) -> None:
    assert without_secrets(text) == TEXTS[text] == one_line(OSError(text))
