"""Odd names and places on the command line of `list`, `info`, `pull` and `verify`: one line."""

from pathlib import Path

import pytest
import timm
from command_line import command, output_of
from hub_server import HubServer
from huggingface_hub import constants

from coatnet_zoo.registry import WEIGHTS

NAME = 'coatnet_nano.sw_in1k'
ODD = [
    '', '.', '/', 'coatnet_1.', '.sw_in1k', 'coatnet_1.sw_in1k.', 'coatnet_99', 'coatnet_1.no', 'resnet18', 'x' * 5000,
    'coatnet_1\n', '\x1b[2J', '\0', '\udcff', '../../etc/passwd', 'timm/coatnet_1', 'hf-hub:me/x', '{}', '*', '-',
]  # fmt: skip


@pytest.mark.parametrize('name', ODD, ids=lambda name: repr(name)[:20])
@pytest.mark.parametrize('args', [['info'], ['pull'], ['verify'], ['list', '--impl']], ids=' '.join)
def test_odd_names(args: list[str], name: str, hub: HubServer) -> None:
    result = command(*args, name)
    assert result.exit_code in (1, 2) and 'Traceback' not in result.output
    *usage, message = result.output.strip().splitlines()
    assert message.startswith('Error: ') and message.isprintable() and len(message) < 3000
    assert bool(usage) == (result.exit_code == 2)  # click says how the command is used
    assert hub.requests == []


def test_cache_without_links(hub: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without symbolic links, the cache keeps no hashes."""
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(fresh_cache))
    hub.add_repo(WEIGHTS[NAME].hf_hub_id, {'model.safetensors': b'content'})
    file = Path(output_of('pull', NAME).strip().partition(': ')[2])
    file.unlink()
    file.write_bytes(b'content')
    result = command('verify', NAME)
    assert result.exit_code == 1 and 'cannot be verified: the cache has no hash of it' in result.output
    assert file.name in output_of('pull', NAME)


def test_pulled_folder(tmp_path: Path) -> None:
    """A new folder or an empty one loads; any other stays as it is."""
    (tmp_path / 'empty').mkdir()
    for dest in (tmp_path / 'empty', tmp_path / 'new' / 'folder'):
        output_of('pull', 'coatnet_atto', '--dest', dest)
        assert timm.create_model(f'local-dir:{dest}', pretrained=True).num_classes == 10
        before = {file.name: file.read_bytes() for file in dest.iterdir()}
        assert 'is not an empty folder' in command('pull', 'coatnet_atto', '--dest', dest).output
        assert {file.name: file.read_bytes() for file in dest.iterdir()} == before
    (tmp_path / 'file').write_text('mine')
    for dest in (tmp_path / 'file', tmp_path / 'file' / 'below', tmp_path / ('x' * 5000), Path('/proc/self/x')):
        result = command('pull', 'coatnet_atto', '--dest', dest)
        assert result.exit_code == 1 and result.output.strip().splitlines()[-1].startswith('Error: ')
    assert (tmp_path / 'file').read_text() == 'mine'
