"""The rules on names as a table: what a request means, without torch or timm."""

from typing import Any

import pytest

from coatnet_zoo.registry import WEIGHTS, choose, list_impls

# The arguments of a request; then the implementation, and the tag whose configuration the network gets.
PASSED_ON = dict(tag='sw_in1k', tag_is_explicit=False)  # as timm's scripts pass on the configuration of a name
CHOICES: list[tuple[str, dict[str, Any], str, str | None]] = [
    ('coatnet_1', {}, 'timm', 'sw_in1k'),
    ('coatnet_1', dict(impl='TIMM', pretrained=True), 'timm', 'sw_in1k'),
    ('coatnet_1', dict(tag='rmlp_sw_in1k'), 'timm_rmlp', 'rmlp_sw_in1k'),
    ('coatnet_1', dict(tag='rmlp_sw_in1k', impl='timm_rmlp'), 'timm_rmlp', 'rmlp_sw_in1k'),
    ('coatnet_1', dict(impl='timm_rmlp2'), 'timm_rmlp2', 'rmlp2_sw_in12k_ft_in1k'),
    ('coatnet_1', dict(impl='paper'), 'paper', None),
    ('coatnet_1', dict(impl='paper', pretrained=True, has_weights=True, recorded_impl='PAPER'), 'paper', None),
    ('coatnet_5', {}, 'paper', 'untrained'),
    ('coatnet_5', dict(tag='untrained'), 'paper', 'untrained'),
    ('coatnet_5', dict(impl='keras_cv'), 'keras_cv', None),
    ('coatnet_1', PASSED_ON, 'timm', 'sw_in1k'),
    ('coatnet_1', dict(PASSED_ON, tag='rmlp_sw_in1k'), 'timm_rmlp', 'rmlp_sw_in1k'),
    ('coatnet_1', dict(PASSED_ON, impl='paper'), 'paper', None),
    ('coatnet_1', dict(PASSED_ON, impl='timm_rmlp'), 'timm_rmlp', 'rmlp_sw_in1k'),
]


@pytest.mark.parametrize('size, request_, impl, tag', CHOICES)
def test_choices(size: str, request_: dict[str, Any], impl: str, tag: str | None) -> None:
    assert choose(size, **request_) == (impl, tag)


@pytest.mark.parametrize('name', WEIGHTS)
def test_every_tag_implies_its_implementation(name: str) -> None:
    size, _, tag = name.partition('.')
    assert choose(size, tag=tag, pretrained=True) == (WEIGHTS[name].impl, tag)
    for impl in list_impls(size):
        if impl != WEIGHTS[name].impl:
            with pytest.raises(ValueError, match=f"{name} need impl='{WEIGHTS[name].impl}', but impl='{impl}' was"):
                choose(size, impl, tag)


ALL = [f"{name} (impl='{weights.impl}')" for name, weights in WEIGHTS.items()]
OF_1 = f"coatnet_1 with impl='paper'; available: {', '.join(name for name in ALL if 'coatnet_1.' in name)}. Use "
OF_5 = f"coatnet_5 with impl='paper'; available: {', '.join(ALL)}. Use pretrained=False, or pass your own"
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ('coatnet_1', dict(impl='google'), f"coatnet_1 has no impl='google'; it has {', '.join(list_impls('coatnet_1'))}."),
    ('coatnet_1', dict(impl='paper', pretrained=True), OF_1),
    ('coatnet_5', dict(pretrained=True), OF_5),
    ('coatnet_1', dict(PASSED_ON, impl='paper', pretrained=True), "need impl='timm', but impl='paper'"),
    ('coatnet_1', dict(impl='timm', pretrained=True, recorded_impl='paper'), "from impl='paper', but impl='timm' was"),
    ('coatnet_1', dict(tag='sw_in22k'), 'Invalid pretrained tag (sw_in22k) for coatnet_1. Did you mean coatnet_1.sw_'),
    ('coatnet_5', dict(tag='sw_in1k'), 'Invalid pretrained tag (sw_in1k) for coatnet_5.'),
]


@pytest.mark.parametrize('size, request_, message', REFUSED)
def test_contradictions_are_refused(size: str, request_: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, RuntimeError)) as e:
        choose(size, **request_)
    assert message in str(e.value) and '\n' not in str(e.value)
