"""Bad input to conversion and loading: one clear sentence, exit code 1, nothing half-written or executed."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner
from paths import DATA
from peers import assert_close, timm_peer
from safetensors.torch import save_file

from coatnet_zoo import CheckpointError, files
from coatnet_zoo.cli import main
from coatnet_zoo.convert import convert

FIXTURE = DATA / 'chinhsuanwu_digits_64.pth'


@pytest.fixture
def state_dict() -> dict[str, torch.Tensor]:
    state_dict = torch.load(FIXTURE, weights_only=True)['model_state_dict']
    return {k.removeprefix('module.'): v for k, v in state_dict.items()}


def assert_refused(src: Path, *words: str, options: tuple[str, ...] = ()) -> None:
    """The command fails with one sentence that has these words, and leaves nothing behind."""
    before = sorted(src.parent.iterdir()) if src.parent.exists() else []
    result = CliRunner().invoke(main, ['convert', str(src), str(src.parent / 'out'), *options])
    assert result.exit_code == 1, result.output
    lines = result.output.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith('Error: '), result.output
    for word in words:
        assert word in lines[0], result.output
    assert sorted(src.parent.iterdir() if before else []) == before


class Executed:
    """Pickles to a call that leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.trace),))


@pytest.mark.parametrize('zipped', [True, False])
def test_pickled_code_is_not_executed(zipped: bool, tmp_path: Path) -> None:
    trace = tmp_path / 'executed'
    torch.save({'state_dict': Executed(trace)}, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    assert_refused(tmp_path / 'a.pth', 'executed')
    assert not trace.exists()


def test_pickled_module_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), tmp_path / 'a.pth')
    assert_refused(tmp_path / 'a.pth', 'torch.nn.modules.container.Sequential', 'save model.state_dict()')


@pytest.mark.parametrize('part', [0.001, 0.3, 0.9, 0.999])
def test_truncated_torch_file(part: float, tmp_path: Path) -> None:
    content = FIXTURE.read_bytes()
    (tmp_path / 'a.pth').write_bytes(content[: int(len(content) * part)])
    assert_refused(tmp_path / 'a.pth', 'not a whole torch checkpoint')


@pytest.mark.parametrize('part', [0.0, 0.001, 0.5, 0.999])
def test_truncated_safetensors_file(part: float, tmp_path: Path, state_dict: dict[str, torch.Tensor]) -> None:
    save_file(state_dict, tmp_path / 'a.safetensors')
    content = (tmp_path / 'a.safetensors').read_bytes()
    (tmp_path / 'a.safetensors').write_bytes(content[: int(len(content) * part)])
    assert_refused(tmp_path / 'a.safetensors', 'not a whole safetensors file')


@pytest.mark.parametrize(
    'content', [b'', b'hello world\n', b'\x80\x02', b'PK\x03\x04', b'\x00' * 100, b'<html></html>']
)
def test_files_of_another_kind(content: bytes, tmp_path: Path) -> None:
    (tmp_path / 'a.pth').write_bytes(content)
    assert_refused(tmp_path / 'a.pth', 'a.pth')


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert_refused(tmp_path / 'a.pth', 'There is no file')
    (tmp_path / 'b').mkdir()
    assert_refused(tmp_path / 'b', 'There is no file')


CONTENTS: dict[str, tuple[Callable[[dict], object], tuple[str, ...]]] = {
    'a list': (lambda sd: [1, 2], ('a list, not a state dict',)),
    'no tensors': (lambda sd: {'epoch': 3, 'lr': 0.1}, ('no state dict', 'epoch, lr')),
    'empty': (lambda sd: {}, ('no state dict',)),
    'numbers for names': (lambda sd: {1: torch.ones(2)}, ('not a checkpoint of chinhsuanwu',)),
    'another network': (lambda sd: {'conv1.weight': torch.ones(2), 'fc.weight': torch.ones(2)}, ('conv1.weight',)),
    'twice': (lambda sd: {**sd, **{'module.' + k: v for k, v in sd.items()}}, ('more than once',)),
    'a missing tensor': (lambda sd: without(sd, 's2.1.conv.fn.4.running_mean'), ('s2.1.conv.fn.4.running_mean',)),
    'a missing table': (lambda sd: without(sd, 's4.0.attn.1.fn.relative_bias_table'), ('relative_bias_table',)),
    'a missing index': (lambda sd: without(sd, 's4.0.attn.1.fn.relative_index'), ('s4.0.attn.1.fn.relative_index',)),
    'a missing block': (lambda sd: {k: v for k, v in sd.items() if not k.startswith('s3.1.')}, ('s3.1.',)),
    'a missing stage': (lambda sd: {k: v for k, v in sd.items() if not k.startswith('s2.')}, ('no blocks', 's2')),
    'a surplus tensor': (lambda sd: {**sd, 's1.0.conv.fn.9.weight': torch.ones(3)}, ('s1.0.conv.fn.9.weight',)),
    'a surplus module': (lambda sd: {**sd, 'aux.fc.bias': torch.ones(3)}, ('aux.fc.bias', 'do not belong')),
    'a wrong shape': (lambda sd: {**sd, 's2.1.conv.fn.3.weight': torch.ones(64, 1, 3, 3)}, ('s2.1.conv.fn.3.weight',)),
    'a wrong bias': (lambda sd: {**sd, 's3.0.ff.1.fn.net.0.bias': torch.ones(3)}, ('s3.0.ff.1.fn.net.0.bias',)),
    'a wrong se': (lambda sd: {**sd, 's1.0.conv.fn.6.fc.0.weight': torch.ones(5, 64)}, ('s1.0.conv.fn.6.fc.0',)),
    'a flat convolution': (lambda sd: {**sd, 's0.0.0.weight': torch.ones(16)}, ('s0.0.0.weight', 'dimensions')),
    'a wrong table': (lambda sd: {**sd, 's3.1.attn.1.fn.relative_bias_table': torch.ones(50, 8)}, ('50 rows',)),
    'two kinds of heads': (lambda sd: {**sd, 's3.1.attn.1.fn.relative_bias_table': torch.ones(49, 4)}, ('heads',)),
    'an empty table': (lambda sd: {**sd, 's3.1.attn.1.fn.relative_bias_table': torch.ones(49, 0)}, ('s3.1.',)),
    'a scalar index': (lambda sd: {**sd, 's3.1.attn.1.fn.relative_index': torch.tensor(3)}, ('s3.1.',)),
    'an empty index': (lambda sd: {**sd, 's3.1.attn.1.fn.relative_index': torch.ones(0)}, ('s3.1.',)),
}


def without(state_dict: dict, key: str) -> dict:
    return {k: v for k, v in state_dict.items() if k != key}


@pytest.mark.parametrize('case', CONTENTS)
def test_contents_that_do_not_fit(case: str, tmp_path: Path, state_dict: dict[str, torch.Tensor]) -> None:
    change, words = CONTENTS[case]
    torch.save(change(state_dict), tmp_path / 'a.pth')
    assert_refused(tmp_path / 'a.pth', *words)


@pytest.mark.parametrize(
    'options, words',
    [
        (('--ema',), ('no moving average',)),
        (('--mean', '0.5,0.5,0.5'), ('mean has 3 values', '1 channel.')),
        (('--std', '0'), ('std must be positive',)),
        (('--crop-pct', '95'), ('crop_pct must lie in (0, 1], got 95',)),
        (('--img-size', '224'), ('trained at (64, 64)',)),
    ],
)
def test_options_that_do_not_fit(options: tuple[str, ...], words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / 'a.pth').write_bytes(FIXTURE.read_bytes())
    assert_refused(tmp_path / 'a.pth', *words, options=options)


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / 'a.pth').write_bytes(FIXTURE.read_bytes())
    (tmp_path / 'labels.txt').write_text('cat\ndog\n')
    labels = ('--labels', str(tmp_path / 'labels.txt'))
    assert_refused(tmp_path / 'a.pth', '2 labels', '10 classes', options=labels)
    assert_refused(tmp_path / 'a.pth', 'no_such.txt', options=('--labels', str(tmp_path / 'no_such.txt')))


@pytest.mark.parametrize('name, impl', [('coatnet_nano_rw_224', 'timm'), ('coatnet_rmlp_nano_rw_224', 'timm_rmlp')])
def test_timm_checkpoint_needs_no_conversion(name: str, impl: str, tmp_path: Path) -> None:
    torch.save(timm.create_model(name).state_dict(), tmp_path / 'a.pth')
    assert_refused(tmp_path / 'a.pth', f"timm.create_model('coatnet_nano', impl='{impl}', checkpoint_path=...)")


def test_existing_folder(tmp_path: Path) -> None:
    out = tmp_path / 'out'
    first = CliRunner().invoke(main, ['convert', str(FIXTURE), str(out), '--name', 'first'])
    assert first.exit_code == 0, first.output
    config = (out / 'config.json').read_text()
    again = CliRunner().invoke(main, ['convert', str(FIXTURE), str(out)])
    assert again.exit_code == 1 and 'exists already' in again.output and '--overwrite' in again.output
    assert (out / 'config.json').read_text() == config
    over = CliRunner().invoke(main, ['convert', str(FIXTURE), str(out), '--overwrite', '--name', 'second'])
    assert over.exit_code == 0, over.output
    assert 'second' in (out / 'config.json').read_text()
    assert [p.name for p in tmp_path.iterdir()] == ['out']


def test_overwrite_spares_other_folders(tmp_path: Path) -> None:
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'thesis.tex').write_text('years of work')
    result = CliRunner().invoke(main, ['convert', str(FIXTURE), str(tmp_path / 'out'), '--overwrite'])
    assert result.exit_code == 1 and 'not overwritten' in result.output
    assert (tmp_path / 'out' / 'thesis.tex').read_text() == 'years of work'


def test_failed_overwrite_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / 'out'
    convert.convert_checkpoint(FIXTURE, out, name='first')

    def fail(one: Path, other: Path) -> bool:
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(files.os, 'replace', fail)
    with pytest.raises(CheckpointError, match='cannot be written'):
        convert.convert_checkpoint(FIXTURE, out, name='second', overwrite=True)
    assert 'first' in (out / 'config.json').read_text()
    assert [p.name for p in tmp_path.iterdir()] == ['out']


def test_full_disk(tmp_path: Path) -> None:
    """A limit on file sizes fails a write in its middle, as a full disk does."""
    code = (
        'import resource, sys\n'
        'from coatnet_zoo import CheckpointError, convert_checkpoint\n'
        'for limit in 0, 1_000, 1_000_000:\n'
        '    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n'
        '    try:\n'
        f'        convert_checkpoint({str(FIXTURE)!r}, {str(tmp_path / "out")!r})\n'
        '    except CheckpointError as e:\n'
        '        print(e)\n'
    )
    result = subprocess.run([sys.executable, '-B', '-c', code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 3
    assert all('cannot be written' in line for line in result.stdout.splitlines())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize('step', ['mkdir', 'save_for_hf'])
def test_disk_errors(code: int, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args, **kwargs) -> None:
        raise OSError(code, os.strerror(code))

    (tmp_path / 'a.pth').write_bytes(FIXTURE.read_bytes())
    if step == 'mkdir':
        monkeypatch.setattr(Path, 'mkdir', fail)
    else:
        monkeypatch.setattr(convert, 'save_for_hf', fail)
    assert_refused(tmp_path / 'a.pth', 'cannot be written', os.strerror(code))


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write to read-only folders')
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    result = CliRunner().invoke(main, ['convert', str(FIXTURE), str(tmp_path / 'out')])
    tmp_path.chmod(0o755)
    assert result.exit_code == 1 and 'cannot be written' in result.output


# Loading into a model.


def refusal(model: torch.nn.Module, state_dict: dict) -> str:
    with pytest.raises(CheckpointError) as e:
        model.load_state_dict(state_dict)
    message = str(e.value)
    assert '\n' not in message and message.endswith('.')
    return message


def test_chinhsuanwu_checkpoint_in_another_model(tmp_path: Path) -> None:
    content = torch.load(FIXTURE, weights_only=True)
    for model in (timm.create_model('coatnet_1', device='meta'), timm.create_model('coatnet_atto')):
        message = refusal(model, content)
        assert 'chinhsuanwu' in message and f'impl={model.cfg.impl!r}' in message
    call = message[message.index('timm.create_model(') :].removesuffix('.')
    loaded = eval(call.replace('checkpoint_path=...', 'checkpoint_path=FIXTURE'))
    assert loaded.num_classes == 10


@pytest.mark.parametrize(
    'theirs, size, impl, target',
    [
        ('coatnet_rmlp_nano_rw_224', 'coatnet_nano', 'timm_rmlp', 'coatnet_nano'),
        ('coatnet_bn_0_rw_224', 'coatnet_0', 'timm_bn', 'coatnet_0'),
        ('coatnet_0_rw_224', 'coatnet_0', 'timm', 'coatnet_1'),
    ],
)
def test_timm_checkpoint_in_another_model(theirs: str, size: str, impl: str, target: str) -> None:
    message = refusal(timm.create_model(target), timm.create_model(theirs).state_dict())
    assert f"is {size} of impl='{impl}'" in message
    assert f"timm.create_model('{size}', impl='{impl}', checkpoint_path=...)" in message


def test_own_checkpoint_in_another_model() -> None:
    saved = timm.create_model('coatnet_nano').state_dict()
    assert "is coatnet_nano of impl='timm'" in refusal(timm.create_model('coatnet_nano', impl='timm_rmlp'), saved)


def test_other_classes_are_reported_as_torch_does() -> None:
    model = timm.create_model('coatnet_atto', num_classes=3)
    with pytest.raises(RuntimeError, match=r'size mismatch for head\.fc\.weight'):
        model.load_state_dict(timm.create_model('coatnet_atto').state_dict())


def test_missing_tensors_are_reported_as_torch_does() -> None:
    model = timm.create_model('coatnet_atto')
    with pytest.raises(RuntimeError, match=r'Missing key\(s\).*stem\.conv2\.weight'):
        model.load_state_dict(without(model.state_dict(), 'stem.conv2.weight'))


def test_unstrict_loading_is_torchs() -> None:
    model = timm.create_model('coatnet_atto')
    result = model.load_state_dict(without(model.state_dict(), 'stem.conv2.weight'), strict=False)
    assert result.missing_keys == ['stem.conv2.weight']


def test_raw_timm_checkpoint_loads_directly(tmp_path: Path) -> None:
    theirs = timm_peer('coatnet_nano_rw_224')
    torch.save({'state_dict': theirs.state_dict(), 'epoch': 3}, tmp_path / 'best.pth')
    ours = timm.create_model('coatnet_nano', impl='timm', checkpoint_path=tmp_path / 'best.pth').eval()
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        assert_close(ours(x), theirs(x), rel=1e-4)
