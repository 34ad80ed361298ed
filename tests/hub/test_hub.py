"""Weights from the Hub, by the real huggingface_hub client from a Hub on the loopback interface.

Tolerances: outputs equal those of timm's own models to 1e-4 relative (fp32; layouts differ, so kernels sum in another
order), and those of the same model saved and loaded to 1e-6 absolute. Errors and falling back to the cache take less
than 5 s.
"""

import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from children import result_of, start_fetch
from hub_server import HubServer, assert_only_safetensors
from huggingface_hub import constants
from peers import assert_close, random_images, timm_peer
from torch import nn

import coatnet_zoo
from coatnet_zoo import HubError
from coatnet_zoo.hub import waiting

REL = 1e-4
LIMIT = 5.0  # seconds
BIN = 'pytorch_model.bin'
SAFE = 'model.safetensors'

NANO = 'coatnet_nano_rw_224.sw_in1k'
NANO_REPO = f'timm/{NANO}'


@contextmanager
def time_limit(seconds: float = LIMIT) -> Iterator[None]:
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    assert took < seconds, f'took {took:.1f} s, allowed {seconds:.1f} s'


def hub_error(call: Callable[[], object]) -> str:
    """The message of the HubError, of one line, that a call raises within the time limit."""
    with time_limit(), pytest.raises(HubError) as caught:
        call()
    message = str(caught.value)
    assert '\n' not in message
    return message


@pytest.fixture(scope='module')
def nano() -> nn.Module:
    """timm's coatnet_nano with random weights."""
    return timm_peer(NANO)


@pytest.fixture(scope='module')
def nano_file(nano: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Its weights, not named as in a repository."""
    file = tmp_path_factory.mktemp('nano') / 'local.safetensors'
    safetensors.torch.save_file(nano.state_dict(), file)
    yield file
    file.unlink()


@pytest.fixture
def nano_hub(hub: HubServer, nano_file: Path) -> HubServer:
    """The Hub, serving them."""
    hub.add_repo(NANO_REPO, {SAFE: nano_file, BIN: b'not to be fetched'})
    return hub


@torch.inference_mode()
def test_num_classes_keeps_all_but_the_head(nano_hub: HubServer, nano: nn.Module, fresh_cache: Path) -> None:
    ours = timm.create_model('coatnet_nano', pretrained=True, num_classes=7, cache_dir=fresh_cache).eval()
    images = random_images()
    assert_close(ours.forward_features(images), nano.forward_features(images), REL)
    assert ours(images).shape == (2, 7)


@torch.inference_mode()
def test_in_chans_is_adapted_as_timm_does(nano_hub: HubServer, nano_file: Path, fresh_cache: Path) -> None:
    overlay = dict(file=str(nano_file))
    theirs = timm.create_model(NANO, pretrained=True, in_chans=1, pretrained_cfg_overlay=overlay).eval()
    assert nano_hub.requests == []
    ours = timm.create_model('coatnet_nano', pretrained=True, in_chans=1, cache_dir=fresh_cache).eval()
    images = random_images(chans=1)
    assert_close(ours(images), theirs(images), REL)


@torch.inference_mode()
def test_features_only_has_the_maps_of_timm(nano_hub: HubServer, nano_file: Path, fresh_cache: Path) -> None:
    overlay = dict(file=str(nano_file))
    theirs = timm.create_model(NANO, pretrained=True, features_only=True, pretrained_cfg_overlay=overlay).eval()
    ours = timm.create_model('coatnet_nano', pretrained=True, features_only=True, cache_dir=fresh_cache).eval()
    assert ours.feature_info.channels() == theirs.feature_info.channels()
    assert ours.feature_info.reduction() == theirs.feature_info.reduction() == [2, 4, 8, 16, 32]
    images = random_images()
    for our_map, their_map in zip(ours(images), theirs(images), strict=True):
        assert_close(our_map, their_map, REL)
    assert_only_safetensors(nano_hub, NANO_REPO)


def test_cache_dir_is_where_the_file_lands(nano_hub: HubServer, nano_file: Path, fresh_cache: Path) -> None:
    default = Path(constants.HF_HUB_CACHE) / f'models--timm--{NANO}'
    assert not default.exists()
    timm.create_model('coatnet_nano', pretrained=True, cache_dir=fresh_cache)
    (file,) = fresh_cache.glob(f'models--timm--{NANO}/snapshots/*/*')
    assert file.name == SAFE
    assert file.stat().st_size == nano_file.stat().st_size
    assert not default.exists()


def test_default_cache_is_that_of_huggingface_hub(nano_hub: HubServer) -> None:
    assert constants.HF_HUB_CACHE.startswith(tempfile.gettempdir())
    timm.create_model('coatnet_nano', pretrained=True)
    (file,) = Path(constants.HF_HUB_CACHE).glob(f'models--timm--{NANO}/snapshots/*/*')
    assert file.name == SAFE
    for path in sorted(Path(constants.HF_HUB_CACHE, f'models--timm--{NANO}').rglob('*'), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    Path(constants.HF_HUB_CACHE, f'models--timm--{NANO}').rmdir()


@torch.inference_mode()
def test_overlaid_file_needs_no_hub(hub: HubServer, nano: nn.Module, nano_file: Path, fresh_cache: Path) -> None:
    overlay = dict(file=str(nano_file))
    ours = timm.create_model(
        'coatnet_nano', pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=fresh_cache
    ).eval()
    assert hub.requests == []
    images = random_images()
    assert_close(ours(images), nano(images), REL)


@torch.inference_mode()
def test_overlaid_repo_is_loaded_from(hub: HubServer, nano: nn.Module, nano_file: Path, fresh_cache: Path) -> None:
    commit = hub.add_repo('someone/finetuned', {SAFE: nano_file})
    overlay = dict(hf_hub_id=f'someone/finetuned@{commit}')
    ours = timm.create_model(
        'coatnet_nano', pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=fresh_cache
    ).eval()
    assert {path for _, path in hub.requests} == {f'/someone/finetuned/resolve/{commit}/{SAFE}'}
    images = random_images()
    assert_close(ours(images), nano(images), REL)


@pytest.mark.parametrize('features_only', [False, True])
def test_pretrained_cfg_names_the_repo(features_only: bool, nano_hub: HubServer, fresh_cache: Path) -> None:
    model = timm.create_model('coatnet_nano', pretrained=True, features_only=features_only, cache_dir=fresh_cache)
    for cfg in (model.pretrained_cfg, model.default_cfg):
        assert cfg['hf_hub_id'] == NANO_REPO
        assert cfg.get('file') is None
        assert str(fresh_cache) not in repr(cfg)
        assert ('num_classes' in cfg) is not features_only


def warm_up(hub: HubServer, cache: Path) -> float:
    """Fill the cache; return the seconds that a model takes to build without weights."""
    timm.create_model('coatnet_nano', pretrained=True, cache_dir=cache)
    hub.requests.clear()
    start = time.monotonic()
    timm.create_model('coatnet_nano')
    return time.monotonic() - start


@torch.inference_mode()
def test_warm_cache_needs_no_hub(nano_hub: HubServer, nano: nn.Module, fresh_cache: Path) -> None:
    building = warm_up(nano_hub, fresh_cache)
    nano_hub.stop()
    with time_limit(building + LIMIT):
        ours = timm.create_model('coatnet_nano', pretrained=True, cache_dir=fresh_cache).eval()
    assert nano_hub.requests == []
    images = random_images()
    assert_close(ours(images), nano(images), REL)


def test_warm_cache_with_a_silent_hub(nano_hub: HubServer, fresh_cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(waiting, '_PROBE_TIMEOUT', 0.5)
    building = warm_up(nano_hub, fresh_cache)
    nano_hub.silent = True
    with time_limit(building + LIMIT):
        timm.create_model('coatnet_nano', pretrained=True, cache_dir=fresh_cache)
    assert {method for method, _ in nano_hub.requests} <= {'HEAD'}


def test_warm_cache_offline(nano_hub: HubServer, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    building = warm_up(nano_hub, fresh_cache)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with time_limit(building + LIMIT):
        timm.create_model('coatnet_nano', pretrained=True, cache_dir=fresh_cache)
    assert nano_hub.requests == []


@pytest.fixture
def hanging_dns(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Name look-ups take longer than anyone waits, as with a resolver that is not there."""
    end = threading.Event()

    def getaddrinfo(*args: object, **kwargs: object) -> None:
        end.wait(20.0)
        raise socket.gaierror(socket.EAI_AGAIN, 'Temporary failure in name resolution')

    monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)
    yield
    end.set()


def test_hanging_dns(hub: HubServer, fresh_cache: Path, hanging_dns: None) -> None:
    message = hub_error(lambda: timm.create_model('coatnet_nano', pretrained=True, cache_dir=fresh_cache))
    assert NANO_REPO in message
    assert hub.requests == []


def test_warm_cache_with_hanging_dns(nano_hub: HubServer, fresh_cache: Path, request, monkeypatch) -> None:
    monkeypatch.setattr(waiting, '_PROBE_TIMEOUT', 0.5)
    building = warm_up(nano_hub, fresh_cache)
    request.getfixturevalue('hanging_dns')
    with time_limit(building + LIMIT):
        timm.create_model('coatnet_nano', pretrained=True, cache_dir=fresh_cache)
    assert nano_hub.requests == []


# huggingface_hub reads the endpoint and the offline switch when it is imported, hence processes of their own.
def error_in_new_process(cache: Path, **env: str) -> str:
    """The HubError of fetching coatnet_nano's weights in a process with this environment, within the time limit."""
    process = start_fetch(NANO_REPO, cache, **env)
    message, seconds = result_of(process)
    assert message.startswith('HubError: ') and seconds < LIMIT
    return message


def assert_helpful(message: str, cache: Path, endpoint: str) -> None:
    for needed in (NANO_REPO, str(cache), endpoint, 'HF_HUB_OFFLINE', 'HF_ENDPOINT'):
        assert needed in message


def test_no_network(fresh_cache: Path) -> None:
    endpoint = 'http://127.0.0.1:1'
    assert_helpful(error_in_new_process(fresh_cache, HF_ENDPOINT=endpoint), fresh_cache, endpoint)


def test_offline_asks_nobody(nano_hub: HubServer, fresh_cache: Path) -> None:
    message = error_in_new_process(fresh_cache, HF_ENDPOINT=nano_hub.url, HF_HUB_OFFLINE='1')
    assert_helpful(message, fresh_cache, nano_hub.url)
    assert nano_hub.requests == []


def test_black_hole(fresh_cache: Path) -> None:
    with socket.create_server(('127.0.0.1', 0)) as hole:  # connects, never answers
        endpoint = f'http://127.0.0.1:{hole.getsockname()[1]}'
        assert_helpful(error_in_new_process(fresh_cache, HF_ENDPOINT=endpoint), fresh_cache, endpoint)


def test_missing_repo(hub: HubServer, fresh_cache: Path) -> None:
    message = hub_error(lambda: timm.create_model('coatnet_nano', pretrained=True, cache_dir=fresh_cache))
    assert NANO_REPO in message
    assert 'repository' in message.lower(), 'does not say that it is the repository that is missing'
    assert hub.filenames == {SAFE}


def test_missing_file(hub: HubServer, fresh_cache: Path) -> None:
    hub.add_repo(NANO_REPO, {BIN: b'not to be fetched'})
    message = hub_error(lambda: timm.create_model('coatnet_nano', pretrained=True, cache_dir=fresh_cache))
    assert NANO_REPO in message
    assert SAFE in message
    assert 'entry not found' in message.lower(), 'does not say that it is the file that is missing'
    assert hub.filenames == {SAFE}


def test_missing_revision(nano_hub: HubServer, fresh_cache: Path) -> None:
    arguments = dict(pretrained_cfg_overlay=dict(hf_hub_id=f'{NANO_REPO}@v2'), cache_dir=fresh_cache)
    message = hub_error(lambda: timm.create_model('coatnet_nano', pretrained=True, **arguments))
    assert f'{NANO_REPO}@v2' in message
    assert 'revision' in message.lower(), 'does not say that it is the revision that is missing'


def test_pickle_is_refused(nano_hub: HubServer, fresh_cache: Path) -> None:
    arguments = dict(pretrained_cfg_overlay=dict(hf_hub_filename=BIN), cache_dir=fresh_cache)
    message = hub_error(lambda: timm.create_model('coatnet_nano', pretrained=True, **arguments))
    assert BIN in message
    assert nano_hub.requests == []


def test_hub_that_dies_while_downloading(nano_hub: HubServer, fresh_cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(waiting, '_WAITS', (0.01,) * 5)
    nano_hub.die_after = 100_000
    with time_limit(), pytest.raises(HubError, match=NANO_REPO):
        timm.create_model('coatnet_nano', pretrained=True, cache_dir=fresh_cache)
    assert not list(fresh_cache.glob('**/snapshots/*/*'))


def test_size_without_weights(hub: HubServer) -> None:
    with time_limit(), pytest.raises(ValueError, match='coatnet_5') as caught:
        timm.create_model('coatnet_5', pretrained=True)
    message = str(caught.value)
    assert '\n' not in message
    assert 'coatnet_3.sw_in12k' in message
    assert 'coatnet_2.sw_in12k_ft_in1k' in message
    assert hub.requests == []


SAVED = {
    'default': ('coatnet_atto', dict(num_classes=5)),
    'structure': ('coatnet_atto', dict(num_classes=5, in_chans=3, img_size=96, depths=(1, 1, 2, 1), dim_head=16)),
    'impl': (
        'coatnet_0',
        dict(
            num_classes=5,
            impl='chinhsuanwu',
            img_size=64,
            stem_width=8,
            embed_dim=(8, 16, 32, 64),
            depths=(1, 1, 1, 1),
            block_types='CTTT',
        ),
    ),
}


@pytest.mark.parametrize('key', SAVED)
@torch.inference_mode()
def test_saved_model_comes_back_from_the_hub(key: str, hub: HubServer, fresh_cache: Path, tmp_path: Path) -> None:
    name, args = SAVED[key]
    saved = timm.create_model(name, **args).eval()
    timm.models.save_for_hf(saved, tmp_path / 'repo', safe_serialization=True)
    hub.add_repo('someone/coatnet', tmp_path / 'repo')
    loaded = timm.create_model('hf-hub:someone/coatnet', pretrained=True, cache_dir=fresh_cache).eval()
    assert isinstance(loaded, coatnet_zoo.CoAtNet)
    assert loaded.cfg == saved.cfg
    assert (loaded.num_classes, loaded.in_chans, loaded.img_size) == (5, saved.in_chans, saved.img_size)
    images = random_images(2, saved.in_chans, saved.img_size)
    expected = saved(images)
    assert expected.std(dim=0).min() > 1e-4
    torch.testing.assert_close(loaded(images), expected, rtol=0.0, atol=1e-6)
    assert hub.filenames == {'config.json', SAFE}

    untrained = timm.create_model('hf-hub:someone/coatnet', cache_dir=fresh_cache)
    assert untrained.cfg == saved.cfg
