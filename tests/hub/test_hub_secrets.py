"""Passwords of HF_ENDPOINT, tokens and signed addresses are in no message, log or progress bar."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from command_line import command
from hub_server import Fault, HubServer
from huggingface_hub import constants

from coatnet_zoo import HubError
from coatnet_zoo.hub import fetch_weights, waiting
from coatnet_zoo.hub.messages import sentence, without_secrets
from coatnet_zoo.registry import short

REPO = 'timm/anything'
SAFE = 'model.safetensors'
TOKEN = 'hf_tokenOfTheUser'
# The password as it is in HF_ENDPOINT, and what must not be printed of it.
PASSWORDS = {
    'hunter2': ['hunter2'],
    'p%40ss%2Fw0rd': ['p%40ss', 'p@ss'],
    'a:b': ['a:b'],
    'e': [':e@'],
    '%E2%82%AC9x': ['%E2%82%AC9x', '€9x'],
}
SIGNED = '/signed/file?X-Amz-Signature=c0ffee&Expires=1'


def point(monkeypatch: pytest.MonkeyPatch, hub: HubServer, password: str) -> None:
    """Have the Hub's address a login."""
    endpoint = hub.url.replace('://', f'://me:{password}@')
    monkeypatch.setattr(constants, 'ENDPOINT', endpoint)
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', endpoint + '/{repo_id}/resolve/{revision}/{filename}')
    monkeypatch.setattr(waiting, '_WAITS', (0.001,))
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    hub.add_repo(REPO, {SAFE: bytes(1000)})


FAULTS = {
    'nothing': [],
    'HEAD 401': [Fault('HEAD', 401, {'X-Error-Message': f'{TOKEN} is no token'})],
    'HEAD 404': [Fault('HEAD', 404)],
    'HEAD 503': [Fault('HEAD', 503)] * 2,
    'GET 403': [Fault('GET', 403, {'X-Error-Message': f'not {TOKEN}'})],
    'GET 404': [Fault('GET', 404)],
    'GET 503': [Fault('GET', 503)] * 2,
    'redirected, GET 403': [Fault('GET', 302, {'Location': SIGNED}), Fault('GET', 403)],
    'redirected, GET 503': [Fault('GET', 302, {'Location': SIGNED}), Fault('GET', 503)] * 2,
    'redirected to nowhere': [Fault('GET', 302, {'Location': 'http://127.0.0.1:1' + SIGNED})] * 2,
    'redirected to a bad address': [Fault('GET', 302, {'Location': 'http://[' + SIGNED})] * 2,
    'redirected to another scheme': [Fault('GET', 302, {'Location': 'ftp://x:y0urs@h' + SIGNED})] * 2,
    'no answer': [Fault('HEAD', raw=lambda b, c: [])],
}


@pytest.mark.parametrize('password', PASSWORDS)
@pytest.mark.parametrize('case', FAULTS)
def test_fetching(
    case: str,
    password: str,
    hub: HubServer,
    fresh_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    point(monkeypatch, hub, password)
    # The HTTP client itself logs the addresses that it is redirected to, at INFO.
    caplog.set_level(logging.WARNING if 'redirected' in case else logging.INFO)
    hub.faults.extend(FAULTS[case])
    messages = []
    try:
        fetch_weights(REPO, cache_dir=fresh_cache)
    except HubError as e:
        messages.append(str(e))
    assert bool(messages) == (case != 'nothing')
    printed = '\n'.join([*messages, *capfd.readouterr(), *(record.getMessage() for record in caplog.records)])
    for secret in [*PASSWORDS[password], TOKEN, 'c0ffee', 'y0urs']:
        assert secret not in printed
    assert hub.tokens[0].startswith('Basic ')


@pytest.mark.parametrize('args', [['pull', 'coatnet_nano'], ['verify', 'coatnet_nano']])
def test_commands(args: list[str], fresh_cache: Path) -> None:
    """With a progress bar, as a user calls them; the port refuses."""
    env = {**os.environ, 'HF_ENDPOINT': 'http://me:hunter2@127.0.0.1:1', 'HF_HUB_CACHE': str(fresh_cache)}
    env.update(HF_HUB_DISABLE_PROGRESS_BARS='0', TQDM_POSITION='-1', HF_TOKEN=TOKEN)
    command_line = [sys.executable, '-m', 'coatnet_zoo_command', *args]
    done = subprocess.run(command_line, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and len((done.stdout + done.stderr).strip().splitlines()) == 1
    assert 'hunter2' not in done.stdout + done.stderr and TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize('faults', [[], [Fault('POST', 401)], [Fault('POST', 500)]], ids=['works', '401', '500'])
def test_push(faults: list[Fault], hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timm.models.save_for_hf(timm.create_model('coatnet_atto'), tmp_path, safe_serialization=True)
    point(monkeypatch, hub, 'hunter2')
    hub.faults.extend(faults)
    result = command('push', tmp_path, 'me/flowers', '--license', 'mit')
    assert result.exit_code == bool(faults) and 'me/flowers' in result.output
    assert 'hunter2' not in result.output and TOKEN not in result.output


TEXTS = {
    'https://me:pw@host/x': 'https://host/x',
    'https://token@host': 'https://host',
    'https://me:p@w@host/x?y=1': 'https://host/x',
    "for url 'https://cdn/a?Signature=abc&Key=1' here": "for url 'https://cdn/a' here",
    '(/relative?sig=abc)': '(/relative)',
    'a question? yes = no': 'a question? yes = no',
    'mail me@host': 'mail me@host',
    'two http://a:b@c http://d:e@f': 'two http://c http://f',
    'bell\a\x1b[31m and\u200bmore': 'bell\\x07\\x1b[31m and\\u200bmore',
    'x' * 5000: 'x' * 1000 + '...',
}


@pytest.mark.parametrize('text', TEXTS, ids=lambda text: text[:20])
def test_texts(text: str) -> None:
    assert without_secrets(text) == TEXTS[text] == sentence(OSError(text))


@pytest.mark.parametrize('name', ['', 'a\nb', 'x' * 5000, '\udcff', '\x1b[2J'])
def test_names_are_escaped_and_shortened(name: str) -> None:
    assert short(name).isprintable() and len(short(name)) < 100
