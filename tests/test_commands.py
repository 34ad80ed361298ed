"""The commands for published weights: list, info, pull, verify, push."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from click.testing import CliRunner, Result
from hub_server import Fault, HubServer
from huggingface_hub import ModelCard, constants
from peers import assert_close, random_images, timm_peer
from torch.utils.flop_counter import FlopCounterMode

from coatnet_zoo import catalogue, list_impls
from coatnet_zoo.cli import main
from coatnet_zoo.configs import SIZES
from coatnet_zoo.costs import COSTS
from coatnet_zoo.integrity import blob_of
from coatnet_zoo.weights import WEIGHTS

SAFE = 'model.safetensors'
RMLP = 'coatnet_nano.rmlp_sw_in1k'
FIELDS = {
    'name', 'tag', 'impl', 'params', 'gmacs', 'img_size', 'num_classes', 'top1', 'license', 'source', 'cached',
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for the commands."""
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(fresh_cache))
    return fresh_cache


@pytest.fixture
def served(hub: HubServer) -> HubServer:
    """The Hub with something under every name."""
    for name, weights in WEIGHTS.items():
        if weights.hf_hub_id:
            hub.add_repo(weights.hf_hub_id, {SAFE: name.encode() * 1000})
    return hub


def command(*args: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def output_of(*args: str | Path) -> str:
    result = command(*args)
    assert result.exit_code == 0, result.output
    return result.output


def refusal(*args: str | Path) -> str:
    result = command(*args)
    assert result.exit_code == 1, result.output
    assert len(result.output.strip().splitlines()) == 1, result.output
    return result.output


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
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, model.in_chans, *model.img_size, device='meta'))
    counted = counter.get_total_flops() / 2e9
    params = sum(p.numel() for p in model.parameters())
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
        'timm/coatnet_rmlp_2_rw_384.sw_in12k_ft_in1k', 'no',
    ]  # fmt: skip


def test_info() -> None:
    text = output_of('info', 'coatnet_1.sw_in1k')
    for fact in ('41,721,502', '7.992 G', 'top-1 83.620 %, top-5 96.382 %', 'apache-2.0', 'bicubic', 'ImageNet-1k'):
        assert fact in text
    assert output_of('info', 'coatnet_1').count('implementation:') == 6
    assert 'none published' in output_of('info', 'coatnet_7')
    message = refusal('info', 'coatnet_8')
    assert "'coatnet_8'" in message and 'coatnet_7' in message and 'coatnet_3.sw_in12k' in message


@pytest.mark.parametrize('args', [['list', '--json'], ['info', 'coatnet_0'], ['verify', 'coatnet_0']])
def test_offline_and_at_once(args: list[str], hub: HubServer) -> None:
    """Under 3 seconds, and without torch, timm or a network."""
    code = (
        'import sys, coatnet_zoo_command\n'
        'try:\n'
        '    coatnet_zoo_command.main()\n'
        'finally:\n'
        "    print({'torch', 'timm'} & set(sys.modules), file=sys.stderr)\n"
    )
    start = time.monotonic()
    process = subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True, timeout=60)
    took = time.monotonic() - start
    assert process.stdout and process.stderr == 'set()\n', process.stderr
    assert took < 3.0
    assert hub.requests == []


def test_other_commands_have_the_models(tmp_path: Path) -> None:
    """`run` registers them, although the command itself has not imported the package."""
    (tmp_path / 'script.py').write_text("import timm; print(timm.create_model('coatnet_atto').cfg.impl)")
    done = subprocess.run(
        [sys.executable, '-m', 'coatnet_zoo_command', 'run', str(tmp_path / 'script.py')],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout == 'paper\n', done.stderr


# pull and verify


def test_pull_all_and_verify(served: HubServer, cache: Path) -> None:
    text = output_of('pull', '--all')
    assert text.count('\n') == len(WEIGHTS)
    assert served.count('GET') == len(WEIGHTS) - 1
    assert all(e['cached'] for e in listing('--pretrained'))
    served.stop()
    text = output_of('verify', *WEIGHTS)
    assert text.count('is sound') == len(WEIGHTS) - 1 and 'coatnet_atto.digits: shipped' in text
    assert output_of('pull', 'coatnet_0').startswith('coatnet_0.sw_in1k: ')


def test_verify_says_what_is_damaged_and_how_to_mend_it(served: HubServer, cache: Path) -> None:
    output_of('pull', 'coatnet_0', 'coatnet_1')
    blob = blob_of(catalogue.local_file('coatnet_1.sw_in1k'))
    blob.write_bytes(blob.read_bytes()[:-1] + b'?')
    result = command('verify', 'coatnet_0', 'coatnet_1', 'coatnet_2')
    assert result.exit_code == 1
    sound, damaged, missing = result.output.splitlines()
    assert sound.startswith('coatnet_0.sw_in1k: ') and sound.endswith(f'({blob_of_name("coatnet_0.sw_in1k")})')
    assert 'is damaged' in damaged and damaged.endswith('mend it by `coatnet-zoo pull coatnet_1.sw_in1k`')
    assert 'not in the cache' in missing and '`coatnet-zoo pull coatnet_2.sw_in12k_ft_in1k`' in missing
    output_of('pull', 'coatnet_1')  # the advice
    assert 'is sound' in output_of('verify', 'coatnet_1')


def blob_of_name(name: str) -> str:
    return blob_of(catalogue.local_file(name)).name


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
    served.rate = 1e5  # 0.16 s or more for a file
    start = time.monotonic()
    output_of('pull', 'coatnet_0', 'coatnet_1', 'coatnet_2', 'coatnet_3')
    took, one = time.monotonic() - start, 2 * (16 << 10) / 1e5
    assert took < 3 * one


def test_pull_shows_progress(served: HubServer, cache: Path) -> None:
    env = {**os.environ, 'HF_HUB_DISABLE_PROGRESS_BARS': '0', 'TQDM_POSITION': '-1', 'HF_HUB_CACHE': str(cache)}
    done = subprocess.run(
        [sys.executable, '-m', 'coatnet_zoo_command', 'pull', 'coatnet_0'],
        env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and '100%' in done.stderr, done.stderr


@pytest.mark.parametrize('names', [['coatnet_8'], ['coatnet_5'], ['coatnet_0', 'coatnet_1.sw']])
def test_unknown_names(names: list[str], hub: HubServer) -> None:
    for what in ('pull', 'verify'):
        message = refusal(what, *names)
        assert repr(names[-1]) in message and 'coatnet_3.sw_in12k' in message
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


# push


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
def test_push_and_load(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
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
    loaded = timm.create_model('hf-hub:me/flowers', pretrained=True, cache_dir=cache).eval()
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
