"""`impl='keras_cv'` and `.h5` files, against keras_cv_attention_models' own outputs.

The fixtures were written by that code with random weights and statistics; its logits came with them. Where
`KERAS_CV_ATTENTION_MODELS` names a checkout of it and `KERAS_CV_PYTHON` an interpreter that has tensorflow 2.15, its
models are built with random weights and statistics there and compared, too.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from originals import keras_cv_models
from paths import DATA
from peers import assert_close

from coatnet_zoo import CheckpointError, convert_checkpoint
from coatnet_zoo.cli import main
from coatnet_zoo.convert import read_checkpoint

h5py = pytest.importorskip('h5py')

FIXTURES = [DATA / 'keras_cv_small.h5', DATA / 'keras_cv_small_weights_only.h5']
STAGES = dict(stem_width=(16, 16), embed_dim=(32, 48, 64, 96), depths=(1, 2, 2, 1))


def images_and_logits(file: Path) -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(file) as content:
        return torch.from_numpy(content['x']).permute(0, 3, 1, 2), torch.from_numpy(content['logits'])


def load(folder: Path, **kwargs) -> torch.nn.Module:
    return timm.create_model(f'local-dir:{folder}', pretrained=True, **kwargs).eval()


@pytest.mark.parametrize('fixture', FIXTURES, ids=lambda f: f.stem)
@torch.inference_mode()
def test_fixture_gives_the_logits_of_the_original_code(fixture: Path, tmp_path: Path) -> None:
    result = convert_checkpoint(fixture, tmp_path / 'out')
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['README.md', 'config.json', 'model.safetensors']
    x, logits = images_and_logits(DATA / 'keras_cv_small_expected.npz')
    # 1.4e-6 was measured; with an epsilon of 1e-6 in the layer norms it is 1.1e-5.
    torch.testing.assert_close(load(tmp_path / 'out')(x), logits, rtol=0, atol=5e-6)
    s = result.structure
    assert dict(stem_width=s.stem_width, embed_dim=s.embed_dim, depths=s.depths) == STAGES
    assert (s.block_types, s.num_heads, s.dim_head) == ('CCTT', None, 32)
    assert (s.in_chans, s.num_classes, s.img_size) == (3, 10, (64, 64))
    # 245,023 are that code's, of which 1,760 are moving statistics.
    assert result.num_params == 245_023 - 1_760
    cfg = json.loads((tmp_path / 'out' / 'config.json').read_text())['pretrained_cfg']
    assert (cfg['interpolation'], cfg['crop_pct'], cfg['mean']) == ('bicubic', 0.95, [0.485, 0.456, 0.406])


@torch.inference_mode()
def test_raw_tensors_and_files_load_without_a_folder(tmp_path: Path) -> None:
    convert_checkpoint(FIXTURES[1], tmp_path / 'out')
    x, _ = images_and_logits(DATA / 'keras_cv_small_expected.npz')
    converted = load(tmp_path / 'out')
    arguments = dict(impl='keras_cv', **STAGES, num_classes=10, img_size=64)
    raw = timm.create_model('coatnet_0', **arguments).eval()
    raw.load_state_dict(read_checkpoint(FIXTURES[1]).tensors)
    overlay = dict(file=str(FIXTURES[0]), num_classes=10)
    file = timm.create_model('coatnet_0', **arguments, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    for model in (raw, file):
        torch.testing.assert_close(model(x), converted(x), rtol=0, atol=0)


def test_a_file_that_does_not_fit_a_model_says_what_would() -> None:
    model = timm.create_model('coatnet_0', impl='paper', device='meta')
    with pytest.raises(CheckpointError) as e:
        model.load_state_dict(read_checkpoint(FIXTURES[0]).tensors)
    assert "impl='keras_cv', stem_width=(16, 16), embed_dim=(32, 48, 64, 96), depths=(1, 2, 2, 1)" in str(e.value)
    assert '\n' not in str(e.value)


def without_classifier(file: h5py.File) -> None:
    """Remove the classifier, as that code does for `num_classes=0`."""
    weights = file.get(W, file)
    for name in ('avg_pool', 'predictions'):
        del weights[name]
    if 'model_config' in file.attrs:
        config = json.loads(file.attrs['model_config'])
        layers = config['config']['layers'] = config['config']['layers'][:-2]
        config['config']['output_layers'] = [[layers[-1]['name'], 0, 0]]
        file.attrs['model_config'] = json.dumps(config)


@pytest.mark.parametrize('way', ['no classifier', '--no-head'])
@pytest.mark.parametrize('fixture', FIXTURES, ids=['model', 'weights'])
@torch.inference_mode()
def test_a_file_without_classifier(fixture: Path, way: str, tmp_path: Path) -> None:
    shutil.copy(fixture, tmp_path / 'a.h5')
    options = [way] if way == '--no-head' else []
    if not options:
        with h5py.File(tmp_path / 'a.h5', 'r+') as file:
            without_classifier(file)
    result = CliRunner().invoke(main, ['convert', str(tmp_path / 'a.h5'), str(tmp_path / 'out'), *options])
    assert result.exit_code == 0 and 'no classes' in result.output, result.output
    x, logits = images_and_logits(DATA / 'keras_cv_small_expected.npz')
    kernel, bias = (read_checkpoint(fixture).tensors[f'predictions/{kind}'] for kind in ('kernel', 'bias'))
    torch.testing.assert_close(load(tmp_path / 'out')(x) @ kernel + bias, logits, rtol=0, atol=1e-4)
    assert load(tmp_path / 'out', num_classes=3)(x).shape == (len(x), 3)


# Bad files.


def assert_refused(src: Path, *words: str) -> None:
    """A one-line error that has these words, and no folder."""
    with pytest.raises(CheckpointError) as e:
        convert_checkpoint(src, src.parent / 'out')
    assert '\n' not in str(e.value)
    for word in words:
        assert word in str(e.value), e.value
    assert not (src.parent / 'out').exists()


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'h5py', None)
    shutil.copy(FIXTURES[0], tmp_path / 'a.h5')
    assert_refused(tmp_path / 'a.h5', 'pip install coatnet-zoo[keras]')


CONTENT = FIXTURES[0].read_bytes()


@pytest.mark.parametrize('content', [CONTENT[:100], CONTENT[: len(CONTENT) // 2], CONTENT[:-1000], b'', b'hello\n'])
def test_truncated_files_and_files_of_another_kind(content: bytes, tmp_path: Path) -> None:
    (tmp_path / 'a.h5').write_bytes(content)
    assert_refused(tmp_path / 'a.h5', 'a.h5', 'corrupt or truncated HDF5 file')


def replace(file, name: str, **kwargs) -> None:
    value = file[name][()]
    del file[name]
    file.create_dataset(name, **{'data': value, **kwargs})


W = 'model_weights/'
CONV = W + 'stack_1_block_1_expand_conv/stack_1_block_1_expand_conv/kernel:0'
TABLE = W + 'stack_3_block_1_mhsa_pos_emb/stack_3_block_1_mhsa_pos_emb/positional_embedding:0'
QKV = W + 'stack_4_block_1_mhsa_qkv_conv/stack_4_block_1_mhsa_qkv_conv/kernel:0'
SE = W + 'stack_2_block_2_se_1_conv/stack_2_block_2_se_1_conv/'
CHANGES: dict[str, tuple[Callable, tuple[str, ...]]] = {
    'no weights': (lambda f: f.__delitem__('model_weights'), ('holds no weights',)),
    'another network': (
        lambda f: [f.__delitem__(W + k) for k in list(f['model_weights']) if k.startswith('st')],
        ('not a checkpoint of', 'keras_cv_attention_models', 'predictions'),
    ),
    'a missing stack': (
        lambda f: [f.__delitem__(W + k) for k in list(f['model_weights']) if k.startswith('stack_4')],
        ('has 3 stacks',),
    ),
    'a missing tensor': (lambda f: f.__delitem__(SE + 'bias:0'), ('lacks tensors: stack_2_block_2_se_1_conv/bias',)),
    'two of a name': (lambda f: f.create_dataset(SE + 'a/bias:0', data=np.ones(2)), ('two weights',)),
    'a wrong shape': (lambda f: replace(f, SE + 'bias:0', data=np.ones(8)), ('stack_2_block_2_se_1_conv/bias', '16')),
    'a flat convolution': (lambda f: replace(f, CONV, data=np.ones(64)), ('expand_conv/kernel', '4 dimensions')),
    'a wide convolution': (lambda f: replace(f, QKV, data=np.ones((3, 3, 64, 192))), ('qkv_conv/kernel', '1 1 i')),
    'a wrong table': (lambda f: replace(f, TABLE, data=np.ones((1, 50))), ('50 offsets', 'stage 3', '64x64')),
    'other heads': (lambda f: replace(f, TABLE, data=np.ones((3, 49))), ('heads of one width',)),
    'a compressed tensor': (lambda f: replace(f, CONV, data=np.ones((1, 1, 16, 64)), compression=9), ('compressed',)),
    'an unwritten tensor': (lambda f: replace(f, CONV, data=None, shape=(10**6, 10**6), dtype='f4'), ('lacks a part',)),
    'raw data of another file': (
        lambda f: replace(f, CONV, data=None, shape=(16,), dtype='f4', external=[('/etc/passwd', 0, 64)]),
        ('in another file',),
    ),
    'a link to another file': (
        lambda f: (f.__delitem__(CONV), f.__setitem__(CONV, h5py.ExternalLink(str(FIXTURES[0]), CONV))),
        ('lacks the tensor stack_1_block_1_expand_conv/kernel',),
    ),
}


@pytest.mark.parametrize('case', CHANGES)
def test_contents_that_do_not_fit(case: str, tmp_path: Path) -> None:
    change, words = CHANGES[case]
    shutil.copy(FIXTURES[0], tmp_path / 'a.h5')
    with h5py.File(tmp_path / 'a.h5', 'r+') as file:
        change(file)
    assert_refused(tmp_path / 'a.h5', *words)


def test_older_names_of_the_table_are_read(tmp_path: Path) -> None:
    shutil.copy(FIXTURES[1], tmp_path / 'a.h5')
    name = TABLE.removeprefix(W)
    with h5py.File(tmp_path / 'a.h5', 'r+') as file:
        file.move(name, name.replace('positional_embedding', 'pos_emb'))
    assert read_checkpoint(tmp_path / 'a.h5').tensors.keys() == read_checkpoint(FIXTURES[1]).tensors.keys()


# Against a checkout of the original code.

SMALL = dict(num_blocks=[1, 2, 2, 1], out_channels=[32, 48, 64, 96], stem_width=16, num_classes=10)
CASES: dict[str, dict] = {
    'CoAtNet0_160': dict(model='CoAtNet0', input_shape=[160, 160, 3]),
    'CoAtNet0_224': dict(model='CoAtNet0', input_shape=[224, 224, 3]),
    'CoAtNet1_160': dict(model='CoAtNet1', input_shape=[160, 160, 3]),
    '32 px': dict(SMALL, input_shape=[32, 32, 3]),
    '200 px': dict(SMALL, input_shape=[200, 200, 3]),  # 100, 50, 25, 13, 7
    '97 px': dict(SMALL, input_shape=[97, 97, 3]),  # 49, 25, 13, 7, 4
    'channels and classes': dict(SMALL, input_shape=[64, 64, 5], num_classes=37),
    'heads that do not divide': dict(SMALL, input_shape=[64, 64, 3], out_channels=[20, 44, 72, 100]),
    'small heads': dict(SMALL, input_shape=[64, 64, 3], head_dimension=16),
    'expansion': dict(SMALL, input_shape=[64, 64, 3], expansion=3),
    'CTTT': dict(SMALL, input_shape=[64, 64, 3], block_types=['conv', 'transform', 'transform', 'transform']),
    'like CoAtNet6': dict(
        input_shape=[96, 96, 3],
        num_blocks=[1, 2, 2, 3, 1],
        out_channels=[32, 48, 64, 128, 96],
        stem_width=16,
        num_classes=10,
        block_types=['conv', 'conv', 'conv', 'transfrom', 'transform'],
        strides=[2, 2, 2, 1, 2],
    ),
}
REFUSED: dict[str, tuple[dict, str]] = {
    'oblong': (dict(SMALL, input_shape=[192, 160, 3]), 'images of 192x160 pixels'),
    'other strides': (dict(SMALL, input_shape=[64, 64, 3], strides=[2, 2, 1, 2]), '225 offsets in stage 3'),
    'no dw strides': (
        dict(SMALL, input_shape=[64, 64, 3], use_dw_strides=False),
        'strides=[2, 2] in stack_1_block_1_expand_conv',
    ),
    'swish': (dict(SMALL, input_shape=[64, 64, 3], activation='swish'), 'stem_1_swish'),
    'bn_act_first': (dict(SMALL, input_shape=[64, 64, 3], bn_act_first=True), 'use_bias=True in stem_1_conv'),
    'no se': (dict(SMALL, input_shape=[64, 64, 3], se_ratio=0), 'se_1_conv'),
    'other se': (dict(SMALL, input_shape=[64, 64, 3], se_ratio=1.0), 'se_1_conv/kernel'),
}
HEADLESS = {'no classifier': dict(SMALL, input_shape=[64, 64, 3], num_classes=0)}


@pytest.fixture(scope='module')
def peer_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for every case, see `keras_cv_peer.py`."""
    specs = CASES | HEADLESS | {name: spec for name, (spec, _) in REFUSED.items()}
    return keras_cv_models(tmp_path_factory.mktemp('keras_cv'), specs)


@pytest.mark.parametrize('form', ['model', 'weights'])
@pytest.mark.parametrize('case', CASES)
@torch.inference_mode()
def test_models_equal_the_original(case: str, form: str, peer_models: Path, tmp_path: Path) -> None:
    result = convert_checkpoint(peer_models / case / f'{form}.h5', tmp_path / 'out')
    (peer_models / case / f'{form}.h5').unlink()
    x, logits = images_and_logits(peer_models / case / 'expected.npz')
    model = load(tmp_path / 'out')
    shutil.rmtree(tmp_path / 'out')
    assert_close(model(x), logits, rel=1e-4)
    if form == 'model':
        assert result.structure.img_size == tuple(x.shape[-2:])
    if 'model' in CASES[case]:
        assert result.size == case.split('_')[0].replace('CoAtNet', 'coatnet_')
        plain = timm.create_model(result.size, impl='keras_cv', img_size=x.shape[-1], device='meta')
        assert plain.cfg == model.cfg


@pytest.mark.parametrize('form', ['model', 'weights'])
@torch.inference_mode()
def test_features_of_a_model_without_classifier_equal_the_original(
    form: str, peer_models: Path, tmp_path: Path
) -> None:
    result = convert_checkpoint(peer_models / 'no classifier' / f'{form}.h5', tmp_path / 'out')
    x, features = images_and_logits(peer_models / 'no classifier' / 'expected.npz')
    assert result.structure.num_classes == 0
    assert_close(load(tmp_path / 'out').forward_features(x), features.permute(0, 3, 1, 2), rel=1e-4)


@pytest.mark.parametrize('case', REFUSED)
def test_options_that_have_no_equal_are_refused(case: str, peer_models: Path, tmp_path: Path) -> None:
    shutil.move(peer_models / case / 'model.h5', tmp_path / 'a.h5')
    assert_refused(tmp_path / 'a.h5', REFUSED[case][1])
