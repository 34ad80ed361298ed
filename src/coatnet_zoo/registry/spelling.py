"""Names as users write them: timm's names of networks that this package has, and names with typos."""

import difflib
import re
from typing import Any

from ..errors import UnknownNameError
from .checks import short
from .sizes import SIZES
from .weights import WEIGHTS, tags_of

# timm's reading of the paper pools and strides in other ways than this package's reading.
_PAPER = dict(conv_stride='depthwise', pool_type='avg2', shortcut_proj_always=False)
_RMLP_0 = dict(conv_stride='depthwise', se_early=False, attn_shortcut_bias=True, rel_pos_type='mlp')
_TEST = dict(stem_width=(16, 32), embed_dim=(32, 64, 96, 128), depths=(1, 1, 2, 1))

# By timm's name: the name here, the implementation, and additional arguments. None: blocks that are not here.
TIMM_NAMES: dict[str, tuple[str, str, dict[str, Any]] | None] = {
    'coatnet_0_224': ('coatnet_0', 'paper', _PAPER),
    'coatnet_1_224': ('coatnet_1', 'paper', _PAPER),
    'coatnet_2_224': ('coatnet_2', 'paper', _PAPER),
    'coatnet_3_224': ('coatnet_3', 'paper', _PAPER),
    'coatnet_4_224': ('coatnet_4', 'paper', _PAPER),
    'coatnet_5_224': ('coatnet_5', 'paper', dict(_PAPER, dim_head=32)),
    'coatnet_pico_rw_224': ('coatnet_nano', 'timm', dict(depths=(2, 3, 5, 2), conv_stride='depthwise')),
    'coatnet_nano_rw_224': ('coatnet_nano', 'timm', {}),
    'coatnet_0_rw_224': ('coatnet_0', 'timm', {}),
    'coatnet_1_rw_224': ('coatnet_1', 'timm', {}),
    'coatnet_2_rw_224': ('coatnet_2', 'timm', {}),
    'coatnet_3_rw_224': ('coatnet_3', 'timm', {}),
    'coatnet_bn_0_rw_224': ('coatnet_0', 'timm_bn', {}),
    'coatnet_rmlp_nano_rw_224': ('coatnet_nano', 'timm_rmlp', {}),
    'coatnet_rmlp_0_rw_224': ('coatnet_0', 'timm', _RMLP_0),
    'coatnet_rmlp_1_rw_224': ('coatnet_1', 'timm_rmlp', {}),
    'coatnet_rmlp_1_rw2_224': ('coatnet_1', 'timm_rmlp2', {}),
    'coatnet_rmlp_2_rw_224': ('coatnet_2', 'timm_rmlp', {}),
    'coatnet_rmlp_2_rw_384': ('coatnet_2', 'timm_rmlp', {}),
    'coatnet_rmlp_3_rw_224': ('coatnet_3', 'timm', dict(rel_pos_type='mlp')),
    'test_coatnet': ('coatnet_nano', 'timm', _TEST),
    'coatnet_nano_cc_224': None,
    'coatnext_nano_rw_224': None,
}
# timm's default tags, where the tag is not the first that `WEIGHTS` has.
TIMM_DEFAULTS = {'coatnet_rmlp_2_rw_224': 'sw_in12k_ft_in1k'}

_CLOSE = 0.7  # of difflib's ratio, which is 1 for equal texts
_LONGEST = 60


def our_name(name: str) -> str:
    """The name in this package, with tag, of weights by timm's name. Any other name is returned unchanged.

    Args:
        name: Any name. timm's names may have a tag, such as `coatnet_1_rw_224.sw_in1k`, and `hf-hub:timm/` before them.

    Raises:
        UnknownNameError: If the name is timm's, but timm has published no such weights.
    """
    theirs, _, tag = name.removeprefix('hf-hub:timm/').partition('.')
    if theirs not in TIMM_NAMES or '@' in tag:  # a revision of the repository
        return name
    if TIMM_NAMES[theirs] is None:
        raise UnknownNameError(
            f"timm's {theirs} has blocks that this package does not have; timm.create_model({theirs!r}) builds it."
        )
    ours = timm_tags(theirs)
    if not ours:
        raise UnknownNameError(f"timm's {theirs} has no published weights; {call_of(theirs)} builds it untrained.")
    tag = tag or next(iter(ours))
    if tag not in ours:
        raise UnknownNameError(f"timm's {theirs} has no tag {short(tag)}; its tags are {', '.join(ours)}.")
    return ours[tag]


def timm_tags(theirs: str) -> dict[str, str]:
    """timm's tags of one of `TIMM_NAMES`, timm's default first, each with the name of the weights in this package."""
    ours = {}
    for name, weights in WEIGHTS.items():
        architecture, _, tag = (weights.hf_hub_id or '').removeprefix('timm/').partition('.')
        if architecture == theirs:
            ours[tag] = name
    first = TIMM_DEFAULTS.get(theirs)
    return {first: ours[first], **ours} if first else ours


def call_of(theirs: str) -> str:
    """The call that makes the network of one of `TIMM_NAMES`, whose row must not be None."""
    size, impl, arguments = TIMM_NAMES[theirs]
    return f'timm.create_model({size!r}, {", ".join(f"{k}={v!r}" for k, v in dict(impl=impl, **arguments).items())})'


def did_you_mean(name: str) -> str:
    """A question with the names nearest to a wrong name (after a size: the tags of that size), or an empty text."""
    *others, last = _nearest(name) or ['']
    return last and f'Did you mean {", ".join(others)}{" or " if others else ""}{last}?'


def no_such(name: str) -> str:
    """The message about a name that does not exist, with what to use instead."""
    question = did_you_mean(name)
    advice = f'. {question}' if question else '; `coatnet-zoo list` shows every name.'
    return f'There is no {short(name)}{advice}'


def _nearest(name: str) -> list[str]:
    size, _, tag = name.partition('.')
    if size in SIZES:
        known = [f'{size}.{t}' for t in tags_of(size)]
        if not tag or name in known:
            return []
        return [k for k in known if _letters(k) == _letters(name)] or known
    if name in TIMM_NAMES or '/' in name:
        return []
    wanted = _letters(name[:_LONGEST])
    known = [*SIZES, *WEIGHTS, *TIMM_NAMES]
    closeness = {k: difflib.SequenceMatcher(None, wanted, _letters(k)).ratio() for k in known}
    best = max(_CLOSE, *closeness.values())
    return [k for k in known if closeness[k] == best]


def _letters(name: str) -> str:
    return re.sub('[^a-z0-9]', '', name.lower())
