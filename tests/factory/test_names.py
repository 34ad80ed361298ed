"""The rules on names, tags and `impl`, through `timm.create_model` as users call it."""

import dataclasses
import json
from pathlib import Path

import pytest
import timm
import torch
from peers import randomize_
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg, save_for_hf

from coatnet_zoo import list_impls, resolve_cfg
from coatnet_zoo.registry import SIZES, WEIGHTS

STAGES = dict(stem_width=(16, 24), embed_dim=(16, 32, 64, 96), depths=(1, 2, 2, 1))


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in model.state_dict().items()}


def one_sentence(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert '\n' not in message and message.endswith('.')
    return message


@pytest.mark.parametrize('name', WEIGHTS)
def test_tag_decides_the_implementation(name: str) -> None:
    model = timm.create_model(name, device='meta')
    assert model.cfg.impl == WEIGHTS[name].impl
    assert model.num_classes == get_pretrained_cfg(name).num_classes


@pytest.mark.parametrize('size', SIZES)
def test_default_tag_and_default_implementation_agree(size: str) -> None:
    model = timm.create_model(size, device='meta')
    assert model.cfg.impl == list_impls(size)[0]
    tags = [n for n in WEIGHTS if n.split('.')[0] == size]
    assert model.pretrained_cfg['tag'] == (tags[0].split('.')[1] if tags else 'untrained')


def test_structure_is_the_same_with_and_without_weights() -> None:
    trained = timm.create_model('coatnet_atto', pretrained=True)
    untrained = timm.create_model('coatnet_atto', pretrained=False)
    assert shapes(trained) == shapes(untrained)
    assert trained.pretrained_cfg == untrained.pretrained_cfg


@pytest.mark.parametrize('impl', ['timm', 'timm_rmlp', 'timm_rmlp2', 'paper', 'chinhsuanwu'])
def test_structure_does_not_depend_on_weights_handed_over(impl: str, tmp_path: Path) -> None:
    untrained = timm.create_model('coatnet_1', impl=impl, **STAGES)
    file = tmp_path / 'model.safetensors'
    save_file(untrained.state_dict(), file)
    trained = timm.create_model(
        'coatnet_1', impl=impl, pretrained=True, pretrained_cfg_overlay=dict(file=str(file)), **STAGES
    )
    assert shapes(trained) == shapes(untrained)
    assert trained.cfg == untrained.cfg


def test_implementation_with_weights_gets_their_configuration() -> None:
    model = timm.create_model('coatnet_0', impl='timm_bn', device='meta')
    assert model.pretrained_cfg['tag'] == 'bn_sw_in1k'
    assert model.pretrained_cfg['hf_hub_id'] == 'timm/coatnet_bn_0_rw_224.sw_in1k'


def test_implementation_without_weights_claims_none() -> None:
    model = timm.create_model('coatnet_1', impl='chinhsuanwu', device='meta')
    assert model.num_classes == 1000
    assert not {'hf_hub_id', 'tag', 'url', 'file', 'license'} & set(model.pretrained_cfg)


@pytest.mark.parametrize('pretrained', [False, True])
def test_contradiction_of_tag_and_implementation_is_refused(pretrained: bool) -> None:
    with pytest.raises(ValueError) as e:
        timm.create_model('coatnet_1.rmlp_sw_in1k', impl='timm', pretrained=pretrained)
    message = one_sentence(e)
    assert 'coatnet_1.rmlp_sw_in1k' in message and "'timm_rmlp'" in message and "'timm'" in message


def test_agreement_of_tag_and_implementation_is_fine() -> None:
    model = timm.create_model('coatnet_1.rmlp_sw_in1k', impl='timm_rmlp', device='meta')
    assert model.cfg.impl == 'timm_rmlp'


@pytest.mark.parametrize('impl', ['chinhsuanwu', 'paper'])
def test_pretrained_without_weights_lists_those_that_have(impl: str) -> None:
    with pytest.raises(ValueError) as e:
        timm.create_model('coatnet_1', impl=impl, pretrained=True)
    message = one_sentence(e)
    assert f"impl='{impl}'" in message
    for name, weights in WEIGHTS.items():
        if name.startswith('coatnet_1.'):
            assert f"{name} (impl='{weights.impl}')" in message


@pytest.mark.parametrize('name', ['coatnet_4', 'coatnet_5', 'coatnet_7', 'coatnet_5.untrained'])
def test_size_without_weights_lists_what_exists(name: str) -> None:
    with pytest.raises(ValueError) as e:
        timm.create_model(name, pretrained=True)
    message = one_sentence(e)
    assert all(w in message for w in WEIGHTS)


@pytest.mark.parametrize(
    'size, impl', [('coatnet_5', 'chinhsuanwu'), ('coatnet_1', 'google'), ('coatnet_nano', 'paper')]
)
def test_unknown_implementation_lists_what_exists(size: str, impl: str) -> None:
    with pytest.raises(ValueError) as e:
        timm.create_model(size, impl=impl)
    message = one_sentence(e)
    assert repr(impl) in message
    assert message.endswith(f'it has {", ".join(list_impls(size))}.')


@pytest.mark.parametrize('arguments', [dict(model_name='coatnet_1.sw_in22k'),
                                       dict(model_name='coatnet_1', pretrained_cfg='sw_in22k')], ids=str)  # fmt: skip
def test_unknown_tag_is_refused(arguments: dict[str, str]) -> None:
    with pytest.raises(RuntimeError, match=r'Invalid pretrained tag \(sw_in22k\) for coatnet_1') as e:
        timm.create_model(**arguments)
    assert 'Did you mean coatnet_1.sw_in1k, coatnet_1.rmlp_sw_in1k, ' in str(e.value)
    assert 'coatnet_2' not in str(e.value)


def test_tags_of_a_size_without_weights() -> None:
    assert timm.create_model('coatnet_5.untrained', device='meta').cfg.impl == 'paper'
    with pytest.raises(RuntimeError, match=r'Invalid pretrained tag \(sw_in1k\) for coatnet_5\.$'):
        timm.create_model('coatnet_5.sw_in1k')


def test_case_of_letters_in_the_implementation() -> None:
    model = timm.create_model('coatnet_1', impl='ChinHsuanWu', device='meta')
    assert model.cfg.impl == 'chinhsuanwu'
    assert timm.create_model('coatnet_1.rmlp_sw_in1k', impl='TIMM_RMLP', device='meta').cfg.impl == 'timm_rmlp'
    assert resolve_cfg('coatnet_1', 'Paper') == resolve_cfg('coatnet_1', 'paper')
    with pytest.raises(ValueError, match="has no impl='Google'; it has timm, "):
        timm.create_model('coatnet_1', impl='Google')


def test_saved_implementation_in_capital_letters(tmp_path: Path) -> None:
    save_for_hf(timm.create_model('coatnet_1', impl='PAPER', **STAGES), tmp_path, safe_serialization=True)
    assert '"impl": "PAPER"' in (tmp_path / 'config.json').read_text()
    assert timm.create_model(f'local-dir:{tmp_path}', pretrained=True).cfg.impl == 'paper'


def test_a_name_alone_is_what_its_default_tag_says() -> None:
    model = timm.create_model('coatnet_atto')
    assert (model.in_chans, model.num_classes, model.img_size) == (1, 10, (64, 64))


def test_weights_can_be_handed_over_as_a_state_dict() -> None:
    source = randomize_(timm.create_model('coatnet_1', impl='chinhsuanwu', **STAGES))
    model = timm.create_model(
        'coatnet_1',
        impl='chinhsuanwu',
        pretrained=True,
        pretrained_cfg_overlay=dict(state_dict=source.state_dict()),
        **STAGES,
    )
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(x), source(x), rtol=0, atol=1e-6)


def test_configuration_objects_work_like_tags() -> None:
    """timm's scripts pass a resolved configuration instead of a tag."""
    cfg = get_pretrained_cfg('coatnet_1.rmlp_sw_in1k')
    assert timm.create_model('coatnet_1', pretrained_cfg=cfg, device='meta').cfg.impl == 'timm_rmlp'
    as_dict = dataclasses.asdict(cfg)
    assert timm.create_model('coatnet_1', pretrained_cfg=as_dict, device='meta').cfg.impl == 'timm_rmlp'
    untrained = timm.create_model('coatnet_1', pretrained_cfg=as_dict, impl='chinhsuanwu', device='meta')
    assert untrained.cfg.impl == 'chinhsuanwu' and 'hf_hub_id' not in untrained.pretrained_cfg
    with pytest.raises(ValueError, match="need impl='timm_rmlp', but impl='paper'"):
        timm.create_model('coatnet_1', pretrained_cfg=as_dict, impl='paper', pretrained=True)


ROUND_TRIPS = [
    dict(impl='paper'),
    dict(impl='timm'),
    dict(impl='timm_rmlp', rel_pos_dim=16),
    dict(impl='timm_rmlp2'),
    dict(impl='chinhsuanwu', num_heads=2, dim_head=16),
    dict(impl='paper', block_types='CTTT'),
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
    assert loaded.cfg == model.cfg
    assert loaded.img_size == model.img_size
    x = torch.randn(2, model.in_chans, *model.img_size)
    with torch.inference_mode():
        expected = model(x)
        torch.testing.assert_close(loaded(x), expected, rtol=0, atol=1e-6)
    assert expected.std() > 0
    saved = json.loads((tmp_path / 'config.json').read_text())['model_args']
    assert set(saved) >= {'impl', 'img_size', 'in_chans', *args} - {'num_classes'}


def test_saved_weights_refuse_another_implementation(tmp_path: Path) -> None:
    save_for_hf(timm.create_model('coatnet_1', impl='chinhsuanwu', **STAGES), tmp_path, safe_serialization=True)
    with pytest.raises(ValueError, match="saved from impl='chinhsuanwu', but impl='timm' was asked for"):
        timm.create_model(f'local-dir:{tmp_path}', pretrained=True, impl='timm')


def test_structural_arguments_replace_the_table() -> None:
    model = timm.create_model('coatnet_1', impl='paper', img_size=96, **STAGES)
    assert [len(s.blocks) for s in model.stages] == [1, 2, 2, 1]
    assert [i['num_chs'] for i in model.feature_info] == [24, 16, 32, 64, 96]
    assert model.img_size == (96, 96)
    assert model.stages[2].blocks[0].attn.rel_pos.window_size == (6, 6)
