"""Odd names and odd places on the command line of `list`, `info`, `pull` and `verify`: one sentence."""

import os
from pathlib import Path

import pytest
from command_line import command
from hub_server import HubServer
from obstacles import OBSTACLES, User, time_limit

from coatnet_zoo import HubError
from coatnet_zoo.hub import cached_weights, fetch_weights

NAMES = [
    '', ' ', '.', '..', '/', 'coatnet_1.', '.sw_in1k', 'coatnet_1.sw_in1k.', 'coatnet_1.SW_IN1K', 'COATNET_1',
    'coatnet_99', 'coatnet_1.no', 'resnet18', 'x' * 5000, 'coatnet_1\n', 'a\nb\nc', '\x1b[2J', '\0', '\udcff', 'ä',
    '../../etc/passwd', 'timm/coatnet_1', 'hf-hub:me/x', 'local-dir:x', '%s', '{}', '*', '$(true)',
    'coatnet_1,coatnet_0', '--', '-',
]  # fmt: skip


@pytest.mark.parametrize('name', NAMES, ids=lambda name: repr(name)[:20])
@pytest.mark.parametrize('args', [['info'], ['pull'], ['verify'], ['list', '--impl']], ids=' '.join)
def test_names(args: list[str], name: str, hub: HubServer) -> None:
    result = command(*args, name)
    assert result.exit_code in (1, 2) and 'Traceback' not in result.output
    *usage, said = result.output.strip().splitlines()
    assert said.startswith('Error: ') and said.isprintable() and len(said) < 3000
    assert bool(usage) == (result.exit_code == 2)  # click says how the command is used
    assert hub.requests == []


PLACES = {
    'the current folder': ('.', None),
    'nothing': ('', '--dest is empty'),
    'a file': ('file', 'cannot be written'),
    'below a file': ('file/below', 'cannot be written'),
    'a name of 5,000 characters': ('x' * 5000, 'cannot be written'),
    'a folder that is not there': ('new/folder', None),
    'of another model': ('other', 'choose another folder'),
    'of another configuration': ('config', 'choose another folder'),
    'system': ('/proc/self/x', 'cannot be written'),
    **{
        f'{name} is {obstacle}': (
            f'{name}:{obstacle}',
            'cannot be written' if obstacle in ('a link to nothing', 'a link to itself') else 'choose another folder',
        )
        for name in ('model.safetensors', 'config.json')
        for obstacle in OBSTACLES
        if not obstacle.startswith('a link to a folder')
    },
    **{
        f'it is {obstacle}': (f':{obstacle}', 'cannot be written') for obstacle in OBSTACLES if 'folder' not in obstacle
    },
    'it is a link to a folder': ('link', None),
}


@pytest.mark.parametrize('case', PLACES)
def test_dest(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there stays as it is, and nothing is half written."""
    dest, words = PLACES[case]
    monkeypatch.chdir(tmp_path)
    user = User(tmp_path / 'user')
    (tmp_path / 'file').write_text('mine')
    for folder, name in (('other', 'model.safetensors'), ('config', 'config.json')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text('mine')
    (tmp_path / 'link').symlink_to(tmp_path / 'target')
    (tmp_path / 'target').mkdir()
    name, colon, obstacle = dest.partition(':')
    if colon:
        dest = 'folder'
        user.put(obstacle, tmp_path / dest / name if name else tmp_path / dest)
    before = sorted(tmp_path.rglob('*'))
    with time_limit(10.0):
        result = command('pull', 'coatnet_atto', '--dest', dest)
    user.assert_untouched()
    if words is None:
        assert result.exit_code == 0 and {'model.safetensors', 'config.json'} <= set(os.listdir(dest))
        return
    assert result.exit_code in (1, 2) and words in result.output
    assert result.output.strip().splitlines()[-1].startswith('Error: ')
    assert sorted(tmp_path.rglob('*')) == before
    for folder, name in (('other', 'model.safetensors'), ('config', 'config.json')):
        assert (tmp_path / folder / name).read_text() == 'mine' and os.listdir(tmp_path / folder) == [name]


REPOSITORIES = [
    '', '@', 'a', 'a/b/c', '/a', 'a/', '../a', 'a/..', 'a b/c', 'a/b@', 'a/b@../x', 'a/b@/x', 'a/b@x\0y', 'a/b@x\ny',
    'x' * 5000, 'a/b@' + 'x' * 5000, 'a\nb/c', '\udcff/x', 'a/b@.', 'a/b@\udcff',
]  # fmt: skip


@pytest.mark.parametrize('repo', REPOSITORIES, ids=lambda name: repr(name)[:20])
def test_repositories(repo: str, hub: HubServer, fresh_cache: Path) -> None:
    """They come from configurations of others."""
    with pytest.raises(HubError) as caught:
        fetch_weights(repo, cache_dir=fresh_cache)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 3000
    assert all(path.startswith('/a/b/resolve/') or path.startswith('/a/resolve') for _, path in hub.requests)
    assert cached_weights(repo, cache_dir=fresh_cache) is None
    assert list(fresh_cache.iterdir()) == []


@pytest.mark.parametrize(
    'filename', ['.safetensors', 'a\0.safetensors', 'x' * 5000 + '.safetensors', '\udcff.safetensors']
)
def test_filenames(filename: str, hub: HubServer, fresh_cache: Path) -> None:
    hub.add_repo('a/b', {'model.safetensors': b'x'})
    with pytest.raises(HubError) as caught:
        fetch_weights('a/b', filename, fresh_cache)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 3000
    assert cached_weights('a/b', filename, fresh_cache) is None
