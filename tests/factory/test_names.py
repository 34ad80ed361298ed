"""The rules on names, tags and `impl`, through `timm.create_model` as users call it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from peers import randomize_
from timm.models import get_pretrained_cfg, save_for_hf

from coatnet_zoo import list_impls, resolve_cfg
from coatnet_zoo.registry import SIZES, WEIGHTS

STAGES = dict(stem_width=(16, 24), embed_dim=(16, 32, 64, 96), depths=(1, 2, 2, 1))


@pytest.mark.parametrize('size', [size for size in SIZES if size[-1] not in '567'])
def test_default_tag_and_default_implementation_agree(size: str) -> None:
    model = timm.create_model(size, device='meta')
    assert model.cfg == resolve_cfg(size, list_impls(size)[0])
    tags = [n for n in WEIGHTS if n.split('.')[0] == size]
    assert model.pretrained_cfg['tag'] == (tags[0].split('.')[1] if tags else 'untrained')


def test_structure_is_the_same_with_and_without_weights() -> None:
    trained = timm.create_model('coatnet_atto', pretrained=True)
    untrained = timm.create_model('coatnet_atto', pretrained=False)
    assert (trained.cfg, trained.pretrained_cfg) == (untrained.cfg, untrained.pretrained_cfg)
    assert timm.create_model('coatnet_0.bn_sw_in1k', device='meta').cfg.impl == 'timm_bn'
    assert (trained.in_chans, trained.num_classes, trained.img_size) == (1, 10, (64, 64))


def test_implementation_without_weights_claims_none() -> None:
    model = timm.create_model('coatnet_1', impl='ChinHsuanWu', device='meta')
    assert (model.cfg.impl, model.num_classes) == ('chinhsuanwu', 1000)
    assert not {'hf_hub_id', 'tag', 'url', 'file', 'license'} & set(model.pretrained_cfg)


REFUSED = [
    ('coatnet_1.rmlp_sw_in1k', dict(impl='timm'), ValueError, "coatnet_1.rmlp_sw_in1k need impl='timm_rmlp'"),
    ('coatnet_1', dict(impl='paper', pretrained=True), ValueError, 'No weights are published for coatnet_1'),
    ('coatnet_1', dict(embed_dims=(1, 2, 3, 4)), TypeError, 'embed_dims'),
    ('coatnet_1', dict(num_classes='10'), ValueError, "num_classes='10' must be an integer"),
    ('coatnet_1', dict(drop_rate='x'), ValueError, "drop_rate='x' must be a number from 0 to 1"),
    ('coatnet_1', dict(drop_path_rate=2), ValueError, 'drop_path_rate=2 must be a number from 0 to 1'),
    ('coatnet_1', dict(conv_expand_ratio=1e6), ValueError, 'conv_expand_ratio=1000000.0 must be .* up to 64'),
]


@pytest.mark.parametrize('name, arguments, kind, message', REFUSED)
def test_bad_names_are_refused(name: str, arguments: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as e:
        timm.create_model(name, **arguments)
    assert '\n' not in str(e.value)


def test_numbers_of_numpy_are_numbers() -> None:
    model = timm.create_model('coatnet_atto', num_classes=np.int64(3), drop_rate=np.float32(0.5), device='meta')
    assert (type(model.num_classes), model.drop_rate) == (int, 0.5)


def test_configuration_objects_work_like_tags() -> None:
    """timm's scripts pass a resolved configuration instead of a tag."""
    cfg = get_pretrained_cfg('coatnet_1.rmlp_sw_in1k')
    assert timm.create_model('coatnet_1', pretrained_cfg=cfg, device='meta').cfg.impl == 'timm_rmlp'
    as_dict = dataclasses.asdict(cfg)
    model = timm.create_model('coatnet_1', pretrained_cfg=dict(as_dict, crop_pct=0.5), device='meta')
    assert (model.cfg.impl, model.pretrained_cfg['crop_pct']) == ('timm_rmlp', 0.5)
    untrained = timm.create_model('coatnet_1', pretrained_cfg=as_dict, impl='chinhsuanwu', device='meta')
    assert untrained.cfg.impl == 'chinhsuanwu' and 'hf_hub_id' not in untrained.pretrained_cfg
    with pytest.raises(ValueError, match="need impl='timm_rmlp', but impl='paper'"):
        timm.create_model('coatnet_1', pretrained_cfg=as_dict, impl='paper', pretrained=True)


ROUND_TRIPS = [
    dict(impl='timm', block_types='CCCT'),
    dict(impl='timm_rmlp', rel_pos_dim=16),
    dict(impl='chinhsuanwu', num_heads=2, dim_head=16),
    dict(impl='paper', block_types=('C', 'C', 'CT', 'T'), embed_dim=(16, 32, (64, 96), 128)),
    dict(impl='paper', conv_stride='depthwise', pool_type='max', img_size=96, in_chans=1, num_classes=7),
    dict(impl='timm', img_size=(64, 96), init_values=1e-4),
]


@pytest.mark.parametrize('args', ROUND_TRIPS, ids=str)
def test_saved_folder_keeps_implementation_and_structure(args: dict, tmp_path: Path) -> None:
    args = {**STAGES, **args}
    model = randomize_(timm.create_model('coatnet_1', drop_path_rate=0.1, **args))
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert (loaded.cfg, loaded.img_size) == (model.cfg, model.img_size)
    x = torch.randn(2, model.in_chans, *model.img_size)
    with torch.inference_mode():
        expected = model(x)
        torch.testing.assert_close(loaded(x), expected, rtol=0, atol=1e-6)
    assert expected.std() > 0
    saved = json.loads((tmp_path / 'config.json').read_text())['model_args']
    assert set(saved) >= {'impl', 'img_size', 'in_chans', *args} - {'num_classes'}
    with pytest.raises(ValueError, match=r"saved from impl='.*', but impl='keras_cv' was requested"):
        timm.create_model(f'local-dir:{tmp_path}', pretrained=True, impl='keras_cv')
