"""Files made to break what reads them: every one is refused by one clear error, and nothing in it is executed.

Besides these cases there are those of test_bad_checkpoints.py and test_fuzz.py.
"""

import io
import json
import os
import pickle
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from click.testing import CliRunner
from hub_server import HubServer
from paths import DATA
from safetensors_bytes import image_of, tensor

from coatnet_zoo import CheckpointError, HubError, convert_checkpoint
from coatnet_zoo.cli import main
from coatnet_zoo.convert import check_values, read_checkpoint
from coatnet_zoo.hub import cached_weights

SAFE = 'model.safetensors'
FIXTURE = DATA / 'chinhsuanwu_digits_64.pth'


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('../../evil', 'x')
    return file.getvalue()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as archive:
        archive.addfile(tarfile.TarInfo('../../evil'))
    return file.getvalue()


SAFETENSORS = {
    'empty': b'',
    'seven bytes': b'\0' * 7,
    'zeros': b'\0' * 64,
    'no header': image_of(b''),
    'header of 1 GB': image_of({'w': tensor()}, claim=1 << 30),
    'header of 2^64 - 1': image_of({'w': tensor()}, claim=2**64 - 1),
    'header of 2^63': image_of({'w': tensor()}, claim=2**63),
    'header one too long': image_of({'w': tensor()}, data=b'', claim=len(json.dumps({'w': tensor()})) + 1),
    'header one too short': image_of({'w': tensor()}, claim=len(json.dumps({'w': tensor()})) - 1),
    'header that is no JSON': image_of(b'not json'),
    'header that is no UTF-8': image_of(b'{"\xff": 1}'),
    'header that is a list': image_of([]),
    'header that is a number': image_of(7),
    'nested header': image_of(b'{"a":' * 10_000 + b'1' + b'}' * 10_000),
    'tensor that is a string': image_of({'w': 'F32'}),
    'no dtype': image_of({'w': dict(shape=[4], data_offsets=[0, 16])}),
    'unknown dtype': image_of({'w': tensor('F33')}),
    'object dtype': image_of({'w': tensor('object')}),
    'dtype that is a number': image_of({'w': tensor(32)}),
    'dtype of another width': image_of({'w': tensor('F64')}),
    'negative shape': image_of({'w': tensor(shape=[-4])}),
    'fractional shape': image_of({'w': tensor(shape=[4.5])}),
    'shape that overflows': image_of({'w': tensor(shape=[2**32, 2**32])}),
    'huge shape': image_of({'w': tensor(shape=[2**60])}),
    'shape that is a string': image_of({'w': tensor(shape='4')}),
    'shape without its data': image_of({'w': tensor(shape=[400])}),
    'offsets beyond the end': image_of({'w': tensor(offsets=[0, 1600])}),
    'offsets swapped': image_of({'w': tensor(offsets=[16, 0])}),
    'negative offsets': image_of({'w': tensor(offsets=[-16, 0])}),
    'offsets of 2^64': image_of({'w': tensor(offsets=[0, 2**64])}),
    'one offset': image_of({'w': tensor(offsets=[0])}),
    'offsets that overlap': image_of({'v': tensor(), 'w': tensor()}),
    'offsets with a hole': image_of({'v': tensor(), 'w': tensor(offsets=[20, 36])}, data=b'\0' * 36),
    'data left over': image_of({'w': tensor()}, data=b'\0' * 32),
    'data cut short': image_of({'w': tensor()}, data=b'\0' * 15),
    'metadata of numbers': image_of({'__metadata__': {'format': 1}, 'w': tensor()}),
    'nothing but metadata': image_of({'__metadata__': {'format': 'pt'}}, data=b''),
    'a zip archive': _zip(),
    'a tar archive': _tar(),
    'a pickle': pickle.dumps({'w': 1}),
    'a torch file': FIXTURE.read_bytes(),
    'a page': b'<!DOCTYPE html><html>404</html>',
    'an LFS pointer': b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n',
}


def one_sentence(error: BaseException) -> str:
    message = str(error)
    assert '\n' not in message and message.endswith('.'), message
    return message


@pytest.mark.parametrize('case', SAFETENSORS)
def test_hostile_safetensors(case: str, tmp_path: Path) -> None:
    file = tmp_path / 'a.safetensors'
    file.write_bytes(SAFETENSORS[case])
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(file)
    assert 'a.safetensors' in one_sentence(caught.value)
    result = CliRunner().invoke(main, ['convert', str(file), str(tmp_path / 'out')])
    assert result.exit_code == 1 and result.output.startswith('Error: ') and result.output.count('\n') == 1
    assert [p.name for p in tmp_path.iterdir()] == ['a.safetensors']


def test_header_of_one_gigabyte_that_is_there(tmp_path: Path) -> None:
    """A sparse file; it is refused at once instead of being read."""
    file = tmp_path / 'a.safetensors'
    with file.open('wb') as f:
        f.write(struct.pack('<Q', 1 << 30))
        f.truncate((1 << 30) + 8)
    start = time.monotonic()
    with pytest.raises(CheckpointError):
        read_checkpoint(file)
    assert time.monotonic() - start < 1.0


# The same by all ways to a model.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound folder."""
    timm.models.save_for_hf(
        timm.create_model('coatnet_atto', num_classes=3), tmp_path / 'folder', safe_serialization=True
    )
    return tmp_path / 'folder'


def load_local(folder: Path, hub: HubServer, cache: Path) -> torch.nn.Module:
    return timm.create_model(f'local-dir:{folder}', pretrained=True)


def load_hub(folder: Path, hub: HubServer, cache: Path) -> torch.nn.Module:
    hub.add_repo('someone/evil', folder)
    return timm.create_model('hf-hub:someone/evil', pretrained=True, cache_dir=cache)


WAYS = pytest.mark.parametrize('load', [load_local, load_hub])


@WAYS
@pytest.mark.parametrize('case', ['empty', 'header of 1 GB', 'offsets that overlap', 'a tar archive', 'a pickle'])
def test_hostile_weights(case: str, load: Callable, folder: Path, hub: HubServer, fresh_cache: Path) -> None:
    (folder / SAFE).write_bytes(SAFETENSORS[case])
    with pytest.raises(CheckpointError) as caught:
        load(folder, hub, fresh_cache)
    assert f'{SAFE} is not a whole safetensors file' in one_sentence(caught.value)


@WAYS
@pytest.mark.parametrize('value', [float('nan'), float('inf'), float('-inf')])
@pytest.mark.parametrize('key', ['stem.conv2.weight', 'stages.0.blocks.0.conv.norm1.running_var'])
def test_weights_that_are_not_finite(
    key: str, value: float, load: Callable, folder: Path, hub: HubServer, fresh_cache: Path
) -> None:
    state_dict = safetensors.torch.load_file(folder / SAFE)
    key = key if key in state_dict else next(k for k in state_dict if k.endswith('running_var'))
    state_dict[key].view(-1)[-1] = value
    safetensors.torch.save_file(state_dict, folder / SAFE)
    with pytest.raises(CheckpointError) as caught:
        load(folder, hub, fresh_cache)
    assert f'NaN or infinite values in {key}' in one_sentence(caught.value)


@WAYS
@pytest.mark.parametrize('dtype', ['I32', 'U32'])
def test_weights_under_another_type_of_the_same_width(
    dtype: str, load: Callable, folder: Path, hub: HubServer, fresh_cache: Path
) -> None:
    image = (folder / SAFE).read_bytes()
    assert image.count(b'"F32"') > 10
    (folder / SAFE).write_bytes(image.replace(b'"F32"', f'"{dtype}"'.encode()))
    with pytest.raises(CheckpointError) as caught:
        load(folder, hub, fresh_cache)
    assert 'instead of torch.float32' in one_sentence(caught.value)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_every_float_is_checked(dtype: torch.dtype) -> None:
    sound = {'w': torch.ones(4).to(dtype), 'n': torch.tensor(3), 'none': torch.empty(0)}
    check_values(sound, sound, 'It')
    damaged = {**sound, 'v': torch.tensor([1.0, float('nan')]).to(dtype)}
    with pytest.raises(CheckpointError, match='It has NaN or infinite values in v'):
        check_values(damaged, damaged, 'It')


def test_conversion_refuses_what_is_not_finite(tmp_path: Path) -> None:
    content = torch.load(FIXTURE, weights_only=True)
    content['model_state_dict']['module.fc.weight'][0, 0] = float('nan')
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=r'NaN or infinite values in fc\.weight'):
        convert_checkpoint(tmp_path / 'a.pth', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


# Pickles. Reading one that is executed makes a folder.


class Executed:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.trace),))


@WAYS
@pytest.mark.parametrize('name', ['pytorch_model.bin', 'model.pth', 'pytorch_model.pth', 'weights.bin', 'a.pth.tar'])
@pytest.mark.parametrize('sound', [True, False])
def test_pickles_are_never_loaded(
    sound: bool, name: str, load: Callable, folder: Path, hub: HubServer, fresh_cache: Path, tmp_path: Path
) -> None:
    trace = tmp_path / 'executed'
    state_dict = safetensors.torch.load_file(folder / SAFE)
    (folder / SAFE).unlink()
    torch.save(state_dict if sound else Executed(trace), folder / name)
    with pytest.raises((CheckpointError, HubError)) as caught:
        load(folder, hub, fresh_cache)
    message = one_sentence(caught.value)
    assert SAFE in message
    assert not trace.exists()
    assert name not in hub.filenames


# Configurations.


def _cfg(**values: Any) -> Callable[[dict], None]:
    return lambda config: config['pretrained_cfg'].update(values)


def _args(**values: Any) -> Callable[[dict], None]:
    return lambda config: config['model_args'].update(values)


CONFIGS: dict[str, Callable[[dict], Any]] = {
    'unknown field': _cfg(evil=1),
    'unknown argument': _args(evil=1),
    'code for an argument': _args(act_layer="__import__('os').system('false')"),
    'unknown implementation': _args(impl='evil'),
    'depths that are text': _args(depths='evil'),
    'depths below one': _args(depths=[0, -1, 2, 2]),
    'unknown block type': _args(block_types='CCXX'),
    'checkpoint path among the arguments': _args(checkpoint_path='/etc/passwd'),
    'preprocessing that is text': _cfg(input_size='evil'),
}
# timm reads these before it asks us.
TIMMS = {
    'unknown architecture': lambda c: c.update(architecture='evil'),
    'architecture that is code': lambda c: c.update(architecture="__import__('os')"),
    'architecture that is a path': lambda c: c.update(architecture='local-dir:/etc'),
    'no architecture': lambda c: c.pop('architecture'),
    'overlay among the arguments': _args(pretrained_cfg_overlay=dict(file='/etc/passwd')),
    'cache among the arguments': _args(cache_dir='/etc'),
    'arguments that are a list': lambda c: c.update(model_args=[1]),
    'configuration that is a list': lambda c: c.update(pretrained_cfg=[1]),
}


@WAYS
@pytest.mark.parametrize('case', CONFIGS)
def test_hostile_configurations(case: str, load: Callable, folder: Path, hub: HubServer, fresh_cache: Path) -> None:
    rewrite(folder, CONFIGS[case])
    with pytest.raises((CheckpointError, ValueError)) as caught:
        load(folder, hub, fresh_cache)
    one_sentence(caught.value)
    assert hub.filenames <= {'config.json', SAFE}


@WAYS
@pytest.mark.parametrize('case', TIMMS)
def test_hostile_configurations_that_timm_refuses(
    case: str, load: Callable, folder: Path, hub: HubServer, fresh_cache: Path
) -> None:
    """By exceptions of its own; what matters is that it loads nothing."""
    rewrite(folder, TIMMS[case])
    with pytest.raises((RuntimeError, TypeError, KeyError, AttributeError)) as caught:
        load(folder, hub, fresh_cache)
    assert '\n' not in str(caught.value)
    assert hub.filenames <= {'config.json'}


def rewrite(folder: Path, change: Callable[[dict], Any]) -> None:
    config = json.loads((folder / 'config.json').read_text())
    change(config)
    (folder / 'config.json').write_text(json.dumps(config))


ELSEWHERE = {
    'file': _cfg(file='../../secret.safetensors'),
    'absolute file': _cfg(file='/etc/passwd'),
    'address': _cfg(url='http://127.0.0.1:1/evil.pth'),
    'weights': _cfg(state_dict={'stem.conv1.weight': [1]}),
    'loader': _cfg(custom_load='hf'),
    'all': _cfg(file='/etc/passwd', url='http://127.0.0.1:1/evil.pth', custom_load='hf', source='url'),
    'another repository': _cfg(hf_hub_id='someone/else'),
}


@WAYS
@pytest.mark.parametrize('case', ELSEWHERE)
def test_configuration_that_points_elsewhere_is_not_followed(
    case: str, load: Callable, folder: Path, hub: HubServer, fresh_cache: Path
) -> None:
    """The weights are those beside it."""
    expected = safetensors.torch.load_file(folder / SAFE)
    hub.add_repo('someone/else', {SAFE: b''})
    rewrite(folder, ELSEWHERE[case])
    loaded = load(folder, hub, fresh_cache).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in expected.items())
    assert not any('someone/else' in path for _, path in hub.requests)


@pytest.mark.parametrize(
    'filename', ['pytorch_model.bin', '../../x.safetensors', '/etc/x.safetensors', '..\\x.safetensors', 'x.pth']
)
def test_filenames_of_a_configuration(filename: str, folder: Path, hub: HubServer, fresh_cache: Path) -> None:
    rewrite(folder, _cfg(hf_hub_filename=filename))
    with pytest.raises(HubError) as caught:
        load_hub(folder, hub, fresh_cache)
    one_sentence(caught.value)
    assert hub.filenames == {'config.json'}
    load_local(folder, hub, fresh_cache)


@pytest.mark.parametrize('target', ['/dev/zero', '/etc/passwd', '.', 'nowhere'])
def test_links(target: str, folder: Path, hub: HubServer, fresh_cache: Path) -> None:
    (folder / SAFE).unlink()
    (folder / SAFE).symlink_to(target)
    with pytest.raises(CheckpointError):
        load_local(folder, hub, fresh_cache)


def test_link_in_the_cache_to_another_file(folder: Path, hub: HubServer, fresh_cache: Path, tmp_path: Path) -> None:
    load_hub(folder, hub, fresh_cache)
    blob = cached_weights('someone/evil', cache_dir=fresh_cache).resolve()
    state_dict = safetensors.torch.load_file(blob)
    state_dict['stem.conv1.weight'] += 1
    safetensors.torch.save_file(state_dict, tmp_path / 'other')
    blob.unlink()
    blob.symlink_to(tmp_path / 'other')
    with pytest.raises(HubError, match='damaged'):
        load_hub(folder, hub, fresh_cache)
