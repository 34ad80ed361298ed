"""The commands for published weights: list, info, pull, verify."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from command_line import command, output_of, refusal
from hub_server import Fault, HubServer
from huggingface_hub import constants
from peers import assert_close, random_images, timm_peer
from release_page import CONTENT, ReleasePage, md5

from coatnet_zoo import list_impls
from coatnet_zoo.hub import catalogue, releases
from coatnet_zoo.network import multiply_adds, num_params
from coatnet_zoo.registry import COSTS, SIZES, WEIGHTS

SAFE = 'model.safetensors'
RMLP = 'coatnet_nano.rmlp_sw_in1k'
ON_THE_HUB = [name for name, weights in WEIGHTS.items() if weights.hf_hub_id]
RELEASED = [name for name, weights in WEIGHTS.items() if weights.release]
FIELDS = {
    'name', 'tag', 'impl', 'params', 'gmacs', 'img_size', 'num_classes', 'top1', 'license', 'source', 'cached',
    'default', 'download', 'in_chans', 'trained_on',
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for the commands."""
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(fresh_cache))
    monkeypatch.setattr(constants, 'HF_HOME', str(fresh_cache))
    return fresh_cache


@pytest.fixture
def served(hub: HubServer) -> HubServer:
    """The Hub with something under every name."""
    for name in ON_THE_HUB:
        hub.add_repo(WEIGHTS[name].hf_hub_id, {SAFE: name.encode() * 1000})
    return hub


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleasePage]:
    """The release page, with a small network in the place of the published ones."""
    page = ReleasePage()
    monkeypatch.setattr(releases, 'RELEASE_HOST', page.url)
    for name in RELEASED:
        monkeypatch.setitem(WEIGHTS, name, dataclasses.replace(WEIGHTS[name], md5=md5(CONTENT)))
    yield page
    page.httpd.shutdown()
    page.httpd.server_close()


def listing(*args: str) -> list[dict]:
    return json.loads(output_of('list', '--json', *args))


# list and info


def test_list_has_everything() -> None:
    entries = listing()
    assert all(set(e) == FIELDS for e in entries)
    assert {e['name'] for e in entries if e['tag']} == set(WEIGHTS)
    expected = {(s, i) for s in SIZES for i in list_impls(s)}
    assert {(e['name'].partition('.')[0], e['impl']) for e in entries} == expected
    assert set(COSTS) == {(e['name'], e['impl']) for e in entries}
    assert len(entries) == len(COSTS)


@pytest.mark.parametrize('entry', catalogue.entries(), ids=lambda e: f'{e.name}-{e.impl}')
def test_costs_are_those_of_the_models(entry: catalogue.Entry) -> None:
    """Exactly the parameters; multiply-adds within 0.1 %, so that another version of torch may count a detail more."""
    model = timm.create_model(entry.name, impl=entry.impl, device='meta')
    params, counted = num_params(model), multiply_adds(model.eval()) / 1e9
    row = f'({entry.name!r}, {entry.impl!r}): ({params:_}, {counted:.4g})'
    assert params == entry.params, row
    assert counted == pytest.approx(entry.gmacs, rel=1e-3), row
    assert (entry.img_size, entry.img_size) == model.img_size
    assert entry.num_classes == model.num_classes


def test_list_can_be_narrowed() -> None:
    assert {e['impl'] for e in listing('--impl', 'timm_rmlp')} == {'timm_rmlp'}
    assert {e['name'] for e in listing('--pretrained')} == set(WEIGHTS)
    both = listing('--pretrained', '--impl', 'timm_bn')
    assert [(e['name'], e['license'], e['source'], e['cached']) for e in both] == [
        ('coatnet_0.bn_sw_in1k', 'apache-2.0', 'timm/coatnet_bn_0_rw_224.sw_in1k', False)
    ]
    assert 'paper, timm, ' in refusal('list', '--impl', 'tim')


def test_list_for_reading() -> None:
    header, *rows = output_of('list').splitlines()
    assert header.split()[:2] == ['name', 'impl']
    assert len(rows) == len(listing())
    (row,) = (r.split() for r in rows if r.startswith('coatnet_2.rmlp_sw_in12k_ft_in1k_384 '))
    assert row[1:] == [
        'timm_rmlp', '73.88', '47.49', '384', '1000', '87.388', 'apache-2.0',
        'timm/coatnet_rmlp_2_rw_384.sw_in12k_ft_in1k', 'no', '296', 'no',
    ]  # fmt: skip


def test_info() -> None:
    text = output_of('info', 'coatnet_1.sw_in1k')
    for fact in ('41,721,502', '7.992 G', 'top-1 83.620 %, top-5 96.382 %', 'apache-2.0', 'bicubic', 'ImageNet-1k'):
        assert fact in text
    assert output_of('info', 'coatnet_1').count('implementation:') == len(
        [n for n, _ in COSTS if n.partition('.')[0] == 'coatnet_1']
    )
    assert 'none published' in output_of('info', 'coatnet_7')
    message = refusal('info', 'coatnet_8')
    assert "'coatnet_8'" in message and 'coatnet_7' in message


@pytest.mark.parametrize('args', [['list', '--json'], ['info', 'coatnet_0'], ['verify', 'coatnet_0']])
def test_offline_and_at_once(args: list[str], hub: HubServer) -> None:
    """Under 3 seconds, and without torch, timm, matplotlib or a network."""
    code = (
        'import sys, coatnet_zoo_command\n'
        'try:\n'
        '    coatnet_zoo_command.main()\n'
        'finally:\n'
        "    print({'torch', 'timm', 'matplotlib'} & set(sys.modules), file=sys.stderr)\n"
    )
    start = time.monotonic()
    process = subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True, timeout=60)
    took = time.monotonic() - start
    assert process.stdout and process.stderr == 'set()\n', process.stderr
    assert took < 3.0
    assert hub.requests == []


# pull and verify


def test_pull_all_and_verify(served: HubServer, page: ReleasePage, cache: Path) -> None:
    assert len(ON_THE_HUB) + len(RELEASED) == len(WEIGHTS) - 1
    text = output_of('pull', '--all')
    assert text.count('\n') == len(WEIGHTS)
    assert served.count('GET') == len(ON_THE_HUB) and page.ranges == [None] * len(RELEASED)
    assert all(e['cached'] for e in listing('--pretrained'))
    served.stop()
    text = output_of('verify', *WEIGHTS)
    assert text.count('is sound') == len(WEIGHTS) - 1 and 'coatnet_atto.digits: shipped' in text
    assert output_of('pull', 'coatnet_0').startswith('coatnet_0.sw_in1k: ')


def test_verify_says_what_is_damaged_and_how_to_mend_it(served: HubServer, cache: Path) -> None:
    output_of('pull', 'coatnet_0', 'coatnet_1')
    blob = catalogue.local_file('coatnet_1.sw_in1k').resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b'?')
    result = command('verify', 'coatnet_0', 'coatnet_1', 'coatnet_2')
    assert result.exit_code == 1
    sound, damaged, missing = result.output.splitlines()
    assert sound.startswith('coatnet_0.sw_in1k: ') and sound.endswith(f'({blob_of_name("coatnet_0.sw_in1k")})')
    assert 'is damaged' in damaged and damaged.endswith('mend it by `coatnet-zoo pull coatnet_1.sw_in1k`')
    assert 'not in the cache' in missing and '`coatnet-zoo pull coatnet_2.sw_in12k_ft_in1k`' in missing
    output_of('pull', 'coatnet_1')  # the advice
    assert 'is sound' in output_of('verify', 'coatnet_1')


def test_pull_mends_what_was_converted(page: ReleasePage, cache: Path) -> None:
    (name, _) = RELEASED
    assert 'not in the cache' in command('verify', name).output
    output_of('pull', name)
    assert 'is sound' in output_of('verify', name)
    catalogue.local_file(name).write_bytes(b'damaged')
    assert f'mend it by `coatnet-zoo pull {name}`' in command('verify', name).output
    output_of('pull', name)
    assert 'is sound' in output_of('verify', name) and len(page.ranges) == 2


def blob_of_name(name: str) -> str:
    return catalogue.local_file(name).resolve().name


def test_cache_without_links_cannot_be_verified(served: HubServer, cache: Path) -> None:
    output_of('pull', 'coatnet_0')
    file = catalogue.local_file('coatnet_0.sw_in1k')
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    assert 'cannot be verified' in refusal('verify', 'coatnet_0')


def test_pull_goes_on_after_an_error(served: HubServer) -> None:
    served.faults.append(Fault('GET', 404))
    result = command('pull', 'coatnet_0', 'coatnet_1', 'coatnet_2')
    assert result.exit_code == 1
    assert sum(line.startswith('Error: coatnet_') for line in result.output.splitlines()) == 1
    assert result.output.count('\n') == 3
    output_of('pull', 'coatnet_0', 'coatnet_1', 'coatnet_2')


def test_pull_downloads_in_parallel(served: HubServer) -> None:
    served.rate = 1e5
    output_of('pull', 'coatnet_0', 'coatnet_1', 'coatnet_2', 'coatnet_3')
    assert served.most_at_once > 1


def test_pull_shows_progress(served: HubServer, cache: Path) -> None:
    env = {**os.environ, 'HF_HUB_DISABLE_PROGRESS_BARS': '0', 'TQDM_POSITION': '-1', 'HF_HUB_CACHE': str(cache)}
    done = subprocess.run(
        [sys.executable, '-m', 'coatnet_zoo_command', 'pull', 'coatnet_0'],
        env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and '100%' in done.stderr, done.stderr


@pytest.mark.parametrize(
    'names, known',
    [(['coatnet_8'], 'coatnet_7'), (['coatnet_5'], 'coatnet_3'), (['coatnet_0', 'coatnet_1.sw'], 'coatnet_1.sw_in1k')],
)
def test_unknown_names(names: list[str], known: str, hub: HubServer) -> None:
    for what in ('pull', 'verify'):
        message = refusal(what, *names)
        assert names[-1] in message and known in message
    assert hub.requests == []


def test_pull_needs_names_or_all() -> None:
    assert command('pull').exit_code == command('pull', '--all', 'coatnet_0').exit_code == 2


@torch.inference_mode()
def test_folders_for_machines_without_a_network(hub: HubServer, tmp_path: Path) -> None:
    theirs = timm_peer('coatnet_rmlp_nano_rw_224.sw_in1k')
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / SAFE)
    hub.add_repo(WEIGHTS[RMLP].hf_hub_id, {SAFE: tmp_path / SAFE})
    dest = tmp_path / 'usb stick'
    assert f'local-dir:{dest / RMLP}' in output_of('pull', RMLP, 'coatnet_atto', '--dest', dest)
    output_of('pull', 'coatnet_atto', '--dest', tmp_path / 'one')
    hub.stop()
    shutil.rmtree(constants.HF_HUB_CACHE)
    for folder in (dest / RMLP, dest / 'coatnet_atto.digits', tmp_path / 'one'):
        assert {p.name for p in folder.iterdir()} == {SAFE, 'config.json'}
    images = random_images(2)
    ours = timm.create_model(f'local-dir:{dest / RMLP}', pretrained=True).eval()
    assert ours.cfg.impl == 'timm_rmlp'
    assert_close(ours(images), theirs(images), 1e-4)
    for field in ('mean', 'std', 'crop_pct', 'interpolation', 'input_size', 'license'):
        assert tuple_of(ours.pretrained_cfg[field]) == timm.get_pretrained_cfg_value(RMLP, field), field
    digits = timm.create_model(f'local-dir:{tmp_path / "one"}', pretrained=True)
    assert len(digits.pretrained_cfg['label_names']) == 10


def test_folder_of_converted_weights(page: ReleasePage, tmp_path: Path) -> None:
    name = RELEASED[0]
    output_of('pull', name, '--dest', tmp_path / 'folder')
    assert {p.name for p in (tmp_path / 'folder').iterdir()} == {SAFE, 'config.json'}
    config = json.loads((tmp_path / 'folder' / 'config.json').read_text())
    assert config['model_args']['impl'] == 'keras_cv' and config['pretrained_cfg']['license'] == 'mit'
    assert (tmp_path / 'folder' / SAFE).read_bytes() == catalogue.local_file(name).read_bytes()


def tuple_of(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def test_folder_is_completed_but_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / 'folder'
    output_of('pull', 'coatnet_atto', '--dest', folder)
    (folder / 'config.json').unlink()
    output_of('pull', 'coatnet_atto', '--dest', folder)
    timm.create_model(f'local-dir:{folder}', pretrained=True)
    (folder / SAFE).write_bytes(b'my own')
    assert 'choose another folder' in refusal_last_line('pull', 'coatnet_atto', '--dest', folder)
    assert (folder / SAFE).read_bytes() == b'my own'
    (tmp_path / 'file').write_text('')
    assert 'cannot be written' in refusal_last_line('pull', 'coatnet_atto', '--dest', tmp_path / 'file' / 'folder')


def refusal_last_line(*args: str | Path) -> str:
    result = command(*args)
    assert result.exit_code == 1
    return result.output.splitlines()[-1]
