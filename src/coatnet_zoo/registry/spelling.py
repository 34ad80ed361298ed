"""Names as users write them: timm's names of networks that this package has, and names with typing errors."""

import difflib
import re

from .checks import short
from .sizes import SIZES
from .timm_names import TIMM_DEFAULTS, TIMM_NAMES
from .weights import WEIGHTS, tags_of

_CLOSE = 0.7  # of difflib's ratio, which is 1 for equal texts
_LONGEST = 60


def our_name(name: str) -> str:
    """The name in this package, with tag, of weights by timm's name. Every other name stays as it is.

    Args:
        name: Any name. timm's names may have a tag, such as `coatnet_1_rw_224.sw_in1k`, and `hf-hub:timm/` before them.

    Raises:
        ValueError: If the name is timm's, but timm has published no such weights.
    """
    theirs, _, tag = name.removeprefix('hf-hub:timm/').partition('.')
    if theirs not in TIMM_NAMES:
        return name
    if TIMM_NAMES[theirs] is None:
        raise ValueError(
            f"timm's {theirs} has blocks that no network of this package has; timm.create_model({theirs!r}) makes it."
        )
    ours = timm_tags(theirs)
    if not ours:
        raise ValueError(f"timm's {theirs} has no published weights; {call_of(theirs)} makes an untrained model.")
    tag = tag or next(iter(ours))
    if tag not in ours:
        raise ValueError(f"timm's {theirs} has no tag {short(tag)}; its tags are {', '.join(ours)}.")
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
    """A question with the names that are nearest to a name that does not exist, or an empty text.

    Args:
        name: Any text. For a size with a tag that does not exist, the question has the tags of that size.
    """
    nearest = _nearest(name)
    if not nearest:
        return ''
    *others, last = nearest
    return f'Did you mean {", ".join(others)} or {last}?' if others else f'Did you mean {last}?'


def no_such(name: str) -> str:
    """The message about a name that does not exist, with what to use instead."""
    question = did_you_mean(name)
    advice = f'. {question}' if question else '; `coatnet-zoo list` shows every name.'
    return f'There is no {short(name)}{advice}'


def check_tag(size: str, tag: str) -> None:
    """Refuse a tag that a size does not have.

    Raises:
        RuntimeError: As timm raises it, with the tags of the size.
    """
    if tag not in (tags_of(size) or ('untrained',)):
        raise RuntimeError(
            f'Invalid pretrained tag ({short(tag)[1:-1]}) for {size}. {did_you_mean(f"{size}.{tag}")}'.rstrip()
        )


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
