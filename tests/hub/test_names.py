"""Names on the command line of `list`, `info`, `pull` and `verify`, and what `pull` and `verify` do with a cache."""

from pathlib import Path

import pytest
import timm
import torch
from command_line import command, output_of
from hub_server import HubServer
from huggingface_hub import constants

from coatnet_zoo.registry import WEIGHTS

NAME = 'coatnet_nano.sw_in1k'
SAFE = 'model.safetensors'
CONTENT = bytes(range(256)) * 64
ODD = [
    '', '.', '/', 'coatnet_1.', '.sw_in1k', 'coatnet_1.sw_in1k.', 'coatnet_99', 'coatnet_1.no', 'resnet18', 'x' * 5000,
    'coatnet_1\n', '\x1b[2J', '\0', '\udcff', '../../etc/passwd', 'timm/coatnet_1', 'hf-hub:me/x', '{}', '*', '-',
]  # fmt: skip


@pytest.mark.parametrize('name', ODD, ids=lambda name: repr(name)[:20])
@pytest.mark.parametrize('args', [['info'], ['pull'], ['verify'], ['list', '--impl']], ids=' '.join)
def test_odd_names(args: list[str], name: str, hub: HubServer) -> None:
    result = command(*args, name)
    assert result.exit_code in (1, 2) and 'Traceback' not in result.output
    *usage, said = result.output.strip().splitlines()
    assert said.startswith('Error: ') and said.isprintable() and len(said) < 3000
    assert bool(usage) == (result.exit_code == 2)  # click says how the command is used
    assert hub.requests == []


@pytest.fixture
def cache(hub: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, which the commands use; the Hub has the file."""
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(fresh_cache))
    hub.add_repo(WEIGHTS[NAME].hf_hub_id, {SAFE: CONTENT})
    return fresh_cache


def test_verify_and_pull(hub: HubServer, cache: Path) -> None:
    assert f'coatnet-zoo pull {NAME}' in refusal_of_verify()
    blob = Path(output_of('pull', NAME).strip().partition(': ')[2]).resolve()
    assert f'is sound ({blob.name})' in output_of('verify', NAME)
    blob.write_bytes(CONTENT[:-1] + b'?')
    requests = len(hub.requests)
    assert 'is damaged' in refusal_of_verify() and f'coatnet-zoo pull {NAME}' in refusal_of_verify()
    assert len(hub.requests) == requests
    output_of('pull', NAME)
    assert blob.read_bytes() == CONTENT and command('verify', NAME).exit_code == 0


def refusal_of_verify() -> str:
    result = command('verify', NAME)
    assert result.exit_code == 1 and len(result.output.strip().splitlines()) == 1
    return result.output


def test_cache_without_links(hub: HubServer, cache: Path) -> None:
    """On a file system without symbolic links, the cache keeps no hashes."""
    file = Path(output_of('pull', NAME).strip().partition(': ')[2])
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    assert 'cannot be verified' in refusal_of_verify()
    output_of('pull', NAME)


@torch.inference_mode()
def test_pulled_folder(tmp_path: Path) -> None:
    """A folder of its own, or an empty one, loads without a network; any other stays as it is."""
    (tmp_path / 'empty').mkdir()
    expected = timm.create_model('coatnet_atto', pretrained=True).eval()(x := torch.rand(2, 1, 64, 64))
    for dest in (tmp_path / 'empty', tmp_path / 'new' / 'folder'):
        output_of('pull', 'coatnet_atto', '--dest', dest)
        model = timm.create_model(f'local-dir:{dest}', pretrained=True).eval()
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
        before = {file.name: file.read_bytes() for file in dest.iterdir()}
        assert 'is not an empty folder' in command('pull', 'coatnet_atto', '--dest', dest).output
        assert {file.name: file.read_bytes() for file in dest.iterdir()} == before
    (tmp_path / 'file').write_text('mine')
    for dest in (tmp_path / 'file', tmp_path / 'file' / 'below', tmp_path / ('x' * 5000), Path('/proc/self/x')):
        result = command('pull', 'coatnet_atto', '--dest', dest)
        assert result.exit_code == 1 and result.output.strip().splitlines()[-1].startswith('Error: ')
    assert (tmp_path / 'file').read_text() == 'mine'
