"""A cache that others wrote to: nothing of theirs is changed, nothing of a repository decides what is sound.

Wherever the cache has a file or a folder, each obstacle lies in turn, in an empty cache and in a full one. Every
command then works or ends with one sentence, in time.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import command
from hub_server import HubServer
from huggingface_hub import constants, hf_hub_download
from obstacles import OBSTACLES, User, time_limit

from coatnet_zoo import HubError
from coatnet_zoo.hub import cached_weights, fetch_weights, waiting
from coatnet_zoo.registry import WEIGHTS

NAME = 'coatnet_nano.sw_in1k'
REPO = WEIGHTS[NAME].hf_hub_id
SAFE = 'model.safetensors'
CONTENT = bytes(range(256)) * 64
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(hub: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, which the commands use; the Hub has the file."""
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(fresh_cache))
    monkeypatch.setattr(waiting, '_WAITS', ())
    hub.add_repo(REPO, {SAFE: CONTENT})
    return fresh_cache


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    user = User(tmp_path / 'user')
    yield user
    user.assert_untouched()


FOLDER = f'models--{REPO.replace("/", "--")}'
PLACES = {
    'the blob': f'{FOLDER}/blobs/{DIGEST}',
    'the part that has arrived': f'{FOLDER}/blobs/{DIGEST}.incomplete',
    'the lock': f'.locks/{FOLDER}/{DIGEST}.lock',
    'the file in the snapshot': f'{FOLDER}/snapshots/COMMIT/{SAFE}',
    'the note of a repository': f'{FOLDER}/snapshots/COMMIT/{SAFE}.sha256',
    'the snapshot': f'{FOLDER}/snapshots/COMMIT',
    'the reference': f'{FOLDER}/refs/main',
    'the blobs': f'{FOLDER}/blobs',
    'the snapshots': f'{FOLDER}/snapshots',
    'the references': f'{FOLDER}/refs',
    'the locks': '.locks',
    'the locks of the repository': f'.locks/{FOLDER}',
    'the repository': FOLDER,
}


@pytest.mark.parametrize('full', [False, True])
@pytest.mark.parametrize('obstacle', OBSTACLES)
@pytest.mark.parametrize('place', PLACES)
def test_obstacles(place: str, obstacle: str, full: bool, hub: HubServer, cache: Path, user: User) -> None:
    if place == 'the repository' and obstacle == 'a link to a folder':
        pytest.skip('who links the folder of a repository elsewhere wants it there')
    if full:
        fetch_weights(REPO)
    path = cache / PLACES[place].replace('COMMIT', hub.commit(REPO))
    user.put(obstacle, path)
    with time_limit(5.0):
        for args in (['info', NAME], ['verify', NAME]):
            assert_sentences(*args)
        fetch_or_sentence()
        user.assert_untouched()
        if (result := command('pull', NAME)).exit_code == 0:
            assert Path(result.output.strip().partition(': ')[2]).read_bytes() == CONTENT
            # A file that is no link cannot be verified without the Hub.
            assert assert_sentences('verify', NAME) == (0 if cached_weights(REPO).is_symlink() else 1)
    user.assert_untouched()
    user.take_away(path)
    assert fetch_or_sentence() or full
    assert command('pull', NAME).exit_code == 0
    assert fetch_or_sentence()


def assert_sentences(*args: str) -> int:
    """A command works or says in one line what is wrong; the exit code."""
    result = command(*args)
    assert result.exit_code in (0, 1) and result.output.strip()
    assert args[0] == 'info' or len(result.output.strip().splitlines()) == 1, result.output
    return result.exit_code


def fetch_or_sentence() -> bool:
    try:
        file = fetch_weights(REPO)
    except HubError as e:
        assert '\n' not in str(e)
        return False
    assert file.read_bytes() == CONTENT
    return True


# Whether `fetch_weights` works, and what it says if not; an empty cache unless `full`.
OUTCOMES = {
    ('the part that has arrived', 'a link to a file', False): 'so it is not written to',
    ('the part that has arrived', 'a second name of a file', False): 'so it is not written to',
    ('the part that has arrived', 'a pipe', False): 'so it is not written to',
    ('the part that has arrived', 'garbage', False): None,
    ('the lock', 'a link to a file', False): 'so it is not written to',
    ('the blob', 'a link to a file', False): 'is damaged',
    ('the blob', 'a link to nothing', True): None,
    ('the blob', 'a pipe', True): 'so it is not written to',
    ('the file in the snapshot', 'a link to a file', True): 'remove the link',
    ('the reference', 'garbage', True): None,
    ('the reference', 'a link to a file', True): None,
    ('the reference', 'a pipe', True): None,
    ('the snapshot', 'a link to a folder', False): 'remove the link',
    ('the blobs', 'a link to a folder', False): 'remove the link',
    ('the note of a repository', 'garbage', True): None,
}


@pytest.mark.parametrize('case', OUTCOMES, ids=str)
def test_outcomes(case: tuple[str, str, bool], hub: HubServer, cache: Path, user: User) -> None:
    place, obstacle, full = case
    if full:
        fetch_weights(REPO)
    user.put(obstacle, cache / PLACES[place].replace('COMMIT', hub.commit(REPO)))
    if OUTCOMES[case] is None:
        assert fetch_or_sentence()
    else:
        with pytest.raises(HubError, match=OUTCOMES[case]):
            fetch_weights(REPO)


# Files of the repository that look like notes of this package.
NOTES = {
    'of another content': hashlib.sha256(b'other').hexdigest().encode(),
    'of a damaged file': None,
    'garbage': b'\xff\xfe\0',
    'empty': b'',
}


@pytest.mark.parametrize('note', NOTES)
@pytest.mark.parametrize('damaged', [True, False])
def test_no_file_of_a_repository_decides(note: str, damaged: bool, hub: HubServer, cache: Path) -> None:
    wrong = CONTENT[:-1] + b'?'
    content = NOTES[note] if NOTES[note] is not None else hashlib.sha256(wrong).hexdigest().encode()
    hub.add_repo(REPO, {SAFE: CONTENT, f'{SAFE}.sha256': content})
    for name in (SAFE, f'{SAFE}.sha256'):
        hf_hub_download(REPO, name)
    blob = cache / PLACES['the blob']
    if damaged:
        blob.write_bytes(wrong)
        with pytest.raises(HubError, match='is damaged'):
            fetch_weights(REPO)
    number = blob.stat().st_ino
    assert command('verify', NAME).exit_code == damaged
    hub.requests.clear()
    assert command('pull', NAME).exit_code == 0
    assert (blob.stat().st_ino != number, hub.count('GET')) == (damaged, damaged)
    assert fetch_or_sentence()


def test_a_damaged_file_stays_until_the_new_one_is_whole(hub: HubServer, cache: Path) -> None:
    """Without a network, `pull` deletes nothing."""
    fetch_weights(REPO)
    blob = cache / PLACES['the blob']
    blob.write_bytes(b'damaged')
    hub.stop()
    result = command('pull', NAME)
    assert result.exit_code == 1 and 'is damaged in the cache' in result.output
    assert blob.read_bytes() == b'damaged'


@pytest.mark.parametrize(
    'target',
    [
        '../../blobs/{digest}/../../../thesis',
        '../../../models--evil--repo/blobs/{digest}',
        '../../blobs/model.safetensors',
        '../../blobs/' + 'A' * 64,
        '{elsewhere}/' + 'a' * 64,
        'model.safetensors',
        '/dev/zero',
    ],
)
def test_links_out_of_the_blobs(target: str, hub: HubServer, cache: Path) -> None:
    """Content of another repository or folder is not used, whatever its name; nothing of it is deleted."""
    for folder in (elsewhere := cache / 'elsewhere', cache / 'models--evil--repo' / 'blobs'):
        folder.mkdir(parents=True, exist_ok=True)
    others = [elsewhere / ('a' * 64), cache / 'models--evil--repo' / 'blobs' / DIGEST]
    others += [cache / FOLDER / 'blobs' / name for name in (SAFE, 'A' * 64)]
    file = fetch_weights(REPO)
    for other in others:
        other.write_bytes(b'other')
    file.unlink()
    file.symlink_to(target.format(digest=DIGEST, elsewhere=elsewhere))
    refused = file.is_file()
    with time_limit(2.0):
        assert command('pull', NAME).exit_code == (1 if refused else 0)
        assert not refused or not fetch_or_sentence()
    assert all(other.read_bytes() == b'other' for other in others)


# What HF_HUB_CACHE may be, besides a folder.
@pytest.mark.parametrize('place', ['a file', 'a pipe', 'a link to itself', 'a link to a folder', 'relative', 'a' * 300])
def test_caches(place: str, cache: Path, user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    odd = tmp_path / 'odd'
    if place in OBSTACLES and place != 'a link to a folder':
        user.put(place, odd)
    elif place == 'a file':
        odd.write_text('')
    elif place == 'a link to a folder':
        odd.symlink_to(cache)
    else:
        odd = Path(place)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(odd))
    monkeypatch.setattr(constants, 'HF_HOME', str(odd))
    works = place in ('a link to a folder', 'relative')
    with time_limit(5.0):
        assert command('list', '--pretrained').exit_code == 0
        assert_sentences('info', NAME)
        assert assert_sentences('verify', NAME) == 1
        assert assert_sentences('verify', 'coatnet_0.kecam_in1k') == 1
        assert fetch_or_sentence() == works
        assert command('pull', NAME).exit_code == (0 if works else 1)
    assert os.path.lexists(odd) or len(place) > 99


@pytest.mark.parametrize('content', ['main', '../../..', 'a' * 10**7, '', '\n', 'A' * 40, '0' * 40, 'é' * 20])
def test_references(content: str, hub: HubServer, cache: Path) -> None:
    fetch_weights(REPO)
    (cache / PLACES['the reference']).write_text(content, encoding='utf-8')
    assert cached_weights(REPO) is None
    assert fetch_or_sentence() and cached_weights(REPO) is not None


def test_blobs_that_huggingface_hub_shares_between_repositories(hub: HubServer, cache: Path) -> None:
    """From version 2 on, it may keep the content elsewhere in the cache: the hash decides, not the place."""
    file = fetch_weights(REPO)
    blob, shared = cache / PLACES['the blob'], cache / 'blobs' / 'ab' / ('ab' * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    assert fetch_weights(REPO) == file and command('verify', NAME).exit_code == 0
    shared.write_bytes(b'damaged')
    assert command('verify', NAME).exit_code == 1
    assert command('pull', NAME).exit_code == 0 and fetch_or_sentence()
    assert shared.read_bytes() == b'damaged' and not blob.is_symlink()
