"""Names as users write them: typos get the nearest name, and timm's names mean the same weights."""

import pytest
import timm
from timm.models import get_pretrained_cfg

from coatnet_zoo.registry import SIZES, TIMM_NAMES, WEIGHTS, call_of, did_you_mean, no_such, our_name, timm_tags

TAGS_OF_1 = (
    'Did you mean coatnet_1.sw_in1k, coatnet_1.rmlp_sw_in1k, coatnet_1.rmlp2_sw_in12k_ft_in1k or '
    'coatnet_1.rmlp2_sw_in12k?'
)
SIZES_0_TO_7 = f'Did you mean {", ".join(f"coatnet_{i}" for i in range(7))} or coatnet_7?'
QUESTIONS = {
    'coatnet1': 'Did you mean coatnet_1?',
    'CoAtNet-1': 'Did you mean coatnet_1?',
    'vit_rel_smal': 'Did you mean vit_rel_small?',
    'coatnet_8': SIZES_0_TO_7,
    'coatnet': SIZES_0_TO_7,
    'coatnet_1.sw_in22k': TAGS_OF_1,
    'coatnet_1.SW-in1k': 'Did you mean coatnet_1.sw_in1k?',
    'coatnet_1rw_224': 'Did you mean coatnet_1_rw_224?',
    # A question would not help.
    'resnet18': '',
    '': '',
    'coatnet_5.nothing': '',
    'hf-hub:me/coatnet1': '',
}


@pytest.mark.parametrize('typed', QUESTIONS)
def test_questions(typed: str) -> None:
    assert did_you_mean(typed) == QUESTIONS[typed]
    assert no_such(typed).startswith(f'There is no {typed!r}')
    assert no_such(typed).endswith(QUESTIONS[typed] or '`coatnet-zoo list` shows every name.')


def test_a_name_that_exists_is_not_questioned() -> None:
    assert {did_you_mean(name) for name in [*SIZES, *WEIGHTS, *TIMM_NAMES]} == {''}


@pytest.mark.parametrize('theirs', TIMM_NAMES)
def test_names_of_timm(theirs: str) -> None:
    """The weights are those of timm's default tag, and of every other tag that timm has on the Hub."""
    default = get_pretrained_cfg(theirs)
    if TIMM_NAMES[theirs] is None:
        with pytest.raises(ValueError, match=f"timm's {theirs} has blocks that this package does not have"):
            our_name(theirs)
    elif default.hf_hub_id is None:
        with pytest.raises(ValueError, match=f"timm's {theirs} has no published weights; timm.create_model"):
            our_name(theirs)
        size, impl, arguments = TIMM_NAMES[theirs]
        model = eval(call_of(theirs).replace("',", "', device='meta',", 1), dict(timm=timm))
        assert (model.cfg.impl, type(model).__name__) == (impl, 'CoAtNet') and size in SIZES
        assert all(getattr(model.cfg, name) == value for name, value in arguments.items())
    else:
        assert WEIGHTS[our_name(theirs)].hf_hub_id == default.hf_hub_id
        assert our_name(f'hf-hub:{default.hf_hub_id}') == our_name(theirs)
        tags = [name.partition('.')[2] for name in timm.list_models(f'{theirs}.*', pretrained=True)]
        assert set(timm_tags(theirs)) == set(tags)
        for tag in tags:
            assert WEIGHTS[our_name(f'{theirs}.{tag}')].hf_hub_id == f'timm/{theirs}.{tag}'
        with pytest.raises(ValueError, match=f"timm's {theirs} has no tag 'no'; its tags are {default.tag}"):
            our_name(f'{theirs}.no')


def test_other_names_stay() -> None:
    revision = 'hf-hub:timm/coatnet_1_rw_224.sw_in1k@main'
    for name in [*SIZES, *WEIGHTS, 'resnet18', '', 'hf-hub:me/x', 'hf-hub:timm/resnet18', 'best.pth', revision]:
        assert our_name(name) == name
