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
from typing import Any

import numpy as np
import pytest
import timm
import torch
from checkpoint_bytes import refusal
from originals import keras_cv_models
from paths import DATA
from peers import assert_close

from coatnet_zoo import convert_checkpoint
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


@pytest.mark.parametrize('fixture', FIXTURES, ids=['model', 'weights'])
@torch.inference_mode()
def test_a_file_without_classifier(fixture: Path, tmp_path: Path) -> None:
    shutil.copy(fixture, tmp_path / 'a.h5')
    with h5py.File(tmp_path / 'a.h5', 'r+') as file:
        without_classifier(file)
    assert convert_checkpoint(tmp_path / 'a.h5', tmp_path / 'out').structure.num_classes == 0
    x, logits = images_and_logits(DATA / 'keras_cv_small_expected.npz')
    kernel, bias = (read_checkpoint(fixture).tensors[f'predictions/{kind}'] for kind in ('kernel', 'bias'))
    torch.testing.assert_close(load(tmp_path / 'out')(x) @ kernel + bias, logits, rtol=0, atol=1e-4)
    assert load(tmp_path / 'out', num_classes=3)(x).shape == (len(x), 3)


# Bad files.


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'h5py', None)
    shutil.copy(FIXTURES[0], tmp_path / 'a.h5')
    assert "pip install 'coatnet-zoo[keras]'" in refusal(tmp_path / 'a.h5')


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
    'a wide convolution': (lambda f: replace(f, QKV, data=np.ones((3, 3, 64, 192))), ('qkv_conv/kernel', '1 1 i')),
    'a wrong table': (lambda f: replace(f, TABLE, data=np.ones((1, 50))), ('50 offsets', 'stage 3', '64x64')),
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
    message = refusal(tmp_path / 'a.h5')
    assert all(word in message for word in words), message


def test_older_names_of_the_table_are_read(tmp_path: Path) -> None:
    shutil.copy(FIXTURES[1], tmp_path / 'a.h5')
    name = TABLE.removeprefix(W)
    with h5py.File(tmp_path / 'a.h5', 'r+') as file:
        file.move(name, name.replace('positional_embedding', 'pos_emb'))
    assert read_checkpoint(tmp_path / 'a.h5').tensors.keys() == read_checkpoint(FIXTURES[1]).tensors.keys()


# Layers of whole models.


def more(layer: dict, **settings: Any) -> None:
    layer['config'].update(settings)


def renamed(layer: dict, name: Any) -> None:
    layer['name'] = layer['config']['name'] = name


LAYERS: dict[str, tuple[str, Callable[[dict], object], str | None]] = {
    'as it is': ('stem_1_conv', lambda x: None, None),
    'softmax at the end': ('predictions', lambda x: more(x, activation='softmax'), None),
    'mixed precision': ('stem_1_conv', lambda x: more(x, dtype={'config': {'name': 'mixed_float16'}}), None),
    'dropout': ('stem_1_pad', lambda x: renamed(x, 'head_drop'), 'lacks the layer stem_1_pad'),
    'a layer of somebody else': ('tf.split', lambda x: renamed(x, 'rescaling'), 'rescaling'),
    'a name twice': ('stem_1_gelu', lambda x: renamed(x, 'stem_1_conv'), 'appears twice'),
    'no config': ('stem_1_gelu', lambda x: x.pop('config'), "'config'"),
    'other strides': ('stem_1_conv', lambda x: more(x, strides=[1, 1]), 'strides=[1, 1] in stem_1_conv'),
    'stride in a 1x1': ('stack_1_block_1_expand_conv', lambda x: more(x, strides=[2, 2]), 'expand_conv'),
    'another factor': ('tf.math.multiply', lambda x: x['inbound_nodes'][0][3].update(y=1.0), 'y=1.0 in tf.math.mul'),
    'another activation': ('stem_1_gelu', lambda x: renamed(x, 'stem_1_swish'), 'stem_1_swish'),
    'a smaller image': ('input_1', lambda x: more(x, batch_input_shape=[None, 32, 32, 3]), '49 offsets in stage 3'),
    'an image of any size': ('input_1', lambda x: more(x, batch_input_shape=[None, None, None, 3]), 'the shape'),
    'an image of 10^9 pixels': ('input_1', lambda x: more(x, batch_input_shape=[None, 10**9, 10**9, 3]), 'stage 3'),
}


@pytest.mark.parametrize('case', LAYERS)
def test_layers_of_a_whole_model(case: str, tmp_path: Path) -> None:
    name, change, word = LAYERS[case]
    shutil.copy(FIXTURES[0], tmp_path / 'a.h5')
    with h5py.File(tmp_path / 'a.h5', 'r+') as file:
        config = json.loads(file.attrs['model_config'])
        change(next(layer for layer in config['config']['layers'] if layer['name'] == name))
        file.attrs['model_config'] = json.dumps(config)
    if word is None:
        assert convert_checkpoint(tmp_path / 'a.h5', tmp_path / 'out').structure.num_classes == 10
    else:
        assert word in refusal(tmp_path / 'a.h5')


@pytest.mark.parametrize('description', [3, b'\xff\xfe', '[]', '{"config": {"layers": [1]}}', '[' * 50_000, ''])
def test_descriptions_that_are_none(description: Any, tmp_path: Path) -> None:
    shutil.copy(FIXTURES[0], tmp_path / 'a.h5')
    with h5py.File(tmp_path / 'a.h5', 'r+') as f:
        f.attrs['model_config'] = description
    refusal(tmp_path / 'a.h5')


RENAMED = {
    'stack_2_block_2_MB_dw_gelu': 'stack_2_block_2_MB_dw_hard_swish',
    'stack_3_block_1_ffn_gelu': 'stack_3_block_1_ffn_gelu_app',
}


@pytest.mark.parametrize('place', RENAMED)
def test_names_of_other_activations_in_files_of_weights_only(place: str, tmp_path: Path) -> None:
    shutil.copy(FIXTURES[1], tmp_path / 'a.h5')
    with h5py.File(tmp_path / 'a.h5', 'r+') as f:
        f.move(place, RENAMED[place])
    assert RENAMED[place] in refusal(tmp_path / 'a.h5')


# Against a checkout of the original code.

SMALL = dict(num_blocks=[1, 2, 2, 1], out_channels=[32, 48, 64, 96], stem_width=16, num_classes=10)
CASES: dict[str, dict] = {
    'CoAtNet0_224': dict(model='CoAtNet0', input_shape=[224, 224, 3]),
    'CoAtNet1_160': dict(model='CoAtNet1', input_shape=[160, 160, 3]),
    '32 px': dict(SMALL, input_shape=[32, 32, 3]),
    '200 px': dict(SMALL, input_shape=[200, 200, 3]),  # 100, 50, 25, 13, 7
    'channels and classes': dict(SMALL, input_shape=[64, 64, 5], num_classes=37),
    'heads that do not divide': dict(SMALL, input_shape=[64, 64, 3], out_channels=[20, 44, 72, 100]),
    'small heads': dict(SMALL, input_shape=[64, 64, 3], head_dimension=16),
    'no classifier': dict(SMALL, input_shape=[64, 64, 3], num_classes=0),
    'expansion': dict(SMALL, input_shape=[64, 64, 3], expansion=3),
    'CTTT': dict(SMALL, input_shape=[64, 64, 3], block_types=['conv', 'transform', 'transform', 'transform']),
    'like CoAtNet6': dict(
        input_shape=[96, 96, 3], num_blocks=[1, 2, 2, 3, 1], out_channels=[32, 48, 64, 128, 96], stem_width=16,
        block_types=['conv', 'conv', 'conv', 'transfrom', 'transform'], strides=[2, 2, 2, 1, 2], num_classes=10,
    ),
}  # fmt: skip
REFUSED: dict[str, tuple[dict, str]] = {
    'oblong': (dict(SMALL, input_shape=[192, 160, 3]), 'images of 192x160 pixels'),
    'other strides': (dict(SMALL, input_shape=[64, 64, 3], strides=[2, 2, 1, 2]), '225 offsets in stage 3'),
    'no dw strides': (
        dict(SMALL, input_shape=[64, 64, 3], use_dw_strides=False),
        'strides=[2, 2] in stack_1_block_1_expand_conv',
    ),
    'swish': (dict(SMALL, input_shape=[64, 64, 3], activation='swish'), 'stem_1_swish'),
    'bn_act_first': (
        dict(SMALL, input_shape=[64, 64, 3], bn_act_first=True),
        'has unexpected tensors: stack_1_block_1_MB_dw_conv/bias',
    ),
    'no se': (dict(SMALL, input_shape=[64, 64, 3], se_ratio=0), 'se_1_conv'),
    'other se': (dict(SMALL, input_shape=[64, 64, 3], se_ratio=1.0), 'se_1_conv/kernel'),
}


@pytest.fixture(scope='module')
def peer_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for every case, see `keras_cv_peer.py`."""
    specs = CASES | {name: spec for name, (spec, _) in REFUSED.items()}
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
    if model.num_classes:
        assert_close(model(x), logits, rel=1e-4)
    else:
        assert_close(model.forward_features(x), logits.permute(0, 3, 1, 2), rel=1e-4)
    if form == 'model':
        assert result.structure.img_size == tuple(x.shape[-2:])
    if 'model' in CASES[case]:
        assert result.size == case.split('_')[0].replace('CoAtNet', 'coatnet_')
        plain = timm.create_model(result.size, impl='keras_cv', img_size=x.shape[-1], device='meta')
        assert plain.cfg == model.cfg


@pytest.mark.parametrize('case', REFUSED)
def test_options_that_have_no_equal_are_refused(case: str, peer_models: Path, tmp_path: Path) -> None:
    shutil.move(peer_models / case / 'model.h5', tmp_path / 'a.h5')
    assert REFUSED[case][1] in refusal(tmp_path / 'a.h5')
