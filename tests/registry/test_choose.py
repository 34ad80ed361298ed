"""The rules on names as a table: what a request means, without torch or timm."""

import subprocess
import sys
from typing import Any

import pytest

from coatnet_zoo.registry import WEIGHTS, Request, choose, list_impls

# The request; then the implementation, the tag whose configuration the network gets, and whether the given
# configuration is kept.
CHOICES: list[tuple[dict[str, Any], str, str | None, bool]] = [
    (dict(size='coatnet_1'), 'timm', 'sw_in1k', False),
    (dict(size='coatnet_1', pretrained=True), 'timm', 'sw_in1k', False),
    (dict(size='coatnet_1', impl='timm'), 'timm', 'sw_in1k', False),
    (dict(size='coatnet_1', tag='rmlp_sw_in1k'), 'timm_rmlp', 'rmlp_sw_in1k', False),
    (dict(size='coatnet_1', tag='rmlp_sw_in1k', impl='timm_rmlp'), 'timm_rmlp', 'rmlp_sw_in1k', False),
    (dict(size='coatnet_1', impl='timm_rmlp2'), 'timm_rmlp2', 'rmlp2_sw_in12k_ft_in1k', False),
    (dict(size='coatnet_1', impl='paper'), 'paper', None, False),
    (dict(size='coatnet_1', impl='paper', pretrained=True, has_weights=True), 'paper', None, False),
    (dict(size='coatnet_5'), 'paper', 'untrained', False),
    (dict(size='coatnet_5', tag='untrained'), 'paper', 'untrained', False),
    (dict(size='coatnet_5', impl='keras_cv'), 'keras_cv', None, False),
    # A configuration that timm's scripts pass on names a tag, and fits the implementation of that tag.
    (dict(size='coatnet_1', tag='sw_in1k', tag_is_explicit=False, has_config=True), 'timm', 'sw_in1k', True),
    (
        dict(size='coatnet_1', tag='rmlp_sw_in1k', tag_is_explicit=False, has_config=True),
        'timm_rmlp', 'rmlp_sw_in1k', True,
    ),
    (dict(size='coatnet_1', impl='paper', tag='sw_in1k', tag_is_explicit=False, has_config=True), 'paper', None, False),
    (
        dict(size='coatnet_1', impl='timm_rmlp', tag='sw_in1k', tag_is_explicit=False, has_config=True),
        'timm_rmlp', 'rmlp_sw_in1k', False,
    ),
    # The configuration of a saved folder has no tag that this package uses.
    (
        dict(size='coatnet_1', impl='paper', has_config=True, pretrained=True, has_weights=True,
             recorded=dict(impl='paper')),
        'paper', None, True,
    ),
]  # fmt: skip


@pytest.mark.parametrize('request_, impl, tag, keeps_config', CHOICES, ids=lambda v: str(v) if v else '-')
def test_choices(request_: dict[str, Any], impl: str, tag: str | None, keeps_config: bool) -> None:
    choice = choose(Request(**request_))
    assert (choice.cfg.impl, choice.keeps_config) == (impl, keeps_config)
    assert keeps_config or choice.tag == tag
    assert choice.structure['impl'] == impl


@pytest.mark.parametrize('name', WEIGHTS)
def test_every_tag_implies_its_implementation(name: str) -> None:
    size, _, tag = name.partition('.')
    choice = choose(Request(size, tag=tag, pretrained=True))
    assert (choice.cfg.impl, choice.tag) == (WEIGHTS[name].impl, tag)
    for impl in list_impls(size):
        if impl != WEIGHTS[name].impl:
            with pytest.raises(ValueError, match='leave out one of the two'):
                choose(Request(size, tag=tag, impl=impl))


REFUSED: list[tuple[dict[str, Any], str]] = [
    (dict(size='coatnet_1', impl='google'), "coatnet_1 has no impl='google'; it has timm, "),
    (dict(size='coatnet_1', impl='paper', pretrained=True), "No weights are published for coatnet_1 with impl='paper'"),
    (dict(size='coatnet_5', pretrained=True), 'No weights are published for coatnet_5'),
    (
        dict(size='coatnet_1', impl='paper', tag='sw_in1k', tag_is_explicit=False, has_config=True, pretrained=True),
        "need impl='timm', but impl='paper'",
    ),
    (
        dict(size='coatnet_1', impl='timm', pretrained=True, has_weights=True, recorded=dict(impl='paper')),
        "saved from impl='paper', but impl='timm' was asked for",
    ),
    (dict(size='coatnet_1', arguments=dict(depths='many')), "depths='many' must be a list, each a whole number"),
    (dict(size='coatnet_1', arguments=dict(qkv_bias=1)), 'qkv_bias=1 must be True or False'),
    (dict(size='coatnet_1', arguments=dict(mlp_ratio=-4)), 'mlp_ratio=-4 must be a positive number'),
    (dict(size='coatnet_1', arguments=dict(num_heads=2.5)), 'num_heads=2.5 must be a positive whole number or None'),
]


@pytest.mark.parametrize('request_, message', REFUSED, ids=[message for _, message in REFUSED])
def test_contradictions_are_refused(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as e:
        choose(Request(**request_))
    assert message in str(e.value) and '\n' not in str(e.value)


def test_arguments_are_sorted_and_recorded() -> None:
    arguments = dict(depths=[1, 2, 3, 4], conv_stride='expand', img_size=320, num_classes=5)
    choice = choose(Request('coatnet_1', arguments=arguments))
    assert choice.arguments == dict(img_size=320, num_classes=5)
    assert choice.cfg.depths == (1, 2, 3, 4) and choice.cfg.conv_stride == 'expand'
    assert set(choice.structure) == {'impl', 'stem_width', 'embed_dim', 'depths', 'block_types', 'conv_stride'}
    recorded = {k: v for k, v in choice.structure.items() if k != 'impl'}
    assert choose(Request('coatnet_1', impl='timm', arguments=recorded)).cfg == choice.cfg


def test_neither_torch_nor_timm_is_needed() -> None:
    code = (
        'import sys, coatnet_zoo_command\n'
        'coatnet_zoo_command.without_models = True\n'
        'from coatnet_zoo.registry import Request, choose\n'
        "print(choose(Request('coatnet_1')).tag, {'torch', 'timm'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert done.stdout == 'sw_in1k set()\n', done.stderr
