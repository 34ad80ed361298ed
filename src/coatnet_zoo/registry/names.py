"""The rules on names: which network and which configuration a size, a tag, an `impl` and arguments mean.

The structure of a model depends on its name, its tag (or the default tag) and the explicit arguments. It never depends
on whether weights are loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .configs import CoAtNetCfg, field_types
from .sizes import known_impl, list_impls, resolve_cfg
from .weights import WEIGHTS, tags_of

UNTRAINED = 'untrained'
STRUCTURE_FIELDS = ('stem_width', 'embed_dim', 'depths', 'block_types')


@dataclass(frozen=True)
class Request:
    """A request to `timm.create_model`.

    Attributes:
        size: Registered name without tag.
        impl: Implementation, if the request names one. The case of letters does not matter.
        tag: Tag of weights, from the name or from a configuration that timm's scripts pass on.
        tag_is_explicit: Whether the tag is part of the name.
        has_config: Whether a whole pretrained configuration is given.
        pretrained: Whether weights are to be loaded.
        has_weights: Whether the weights themselves are given: a file, an address, a repository or tensors.
        arguments: Every other argument.
        recorded: The arguments that the given weights were saved with.
    """

    size: str
    impl: str | None = None
    tag: str | None = None
    tag_is_explicit: bool = True
    has_config: bool = False
    pretrained: bool = False
    has_weights: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    recorded: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """The network that a request means.

    Attributes:
        cfg: Structure and flavour of the network.
        keeps_config: Whether the network gets the pretrained configuration of the request.
        tag: Otherwise, the tag of the pretrained configuration. None: a configuration without weights.
        structure: The arguments that rebuild the network, to be recorded with the network.
        arguments: The arguments that are not fields of `CoAtNetCfg`.
    """

    cfg: CoAtNetCfg
    keeps_config: bool
    tag: str | None
    structure: dict[str, Any]
    arguments: dict[str, Any]


def choose(request: Request) -> Choice:
    """Decide which network a request means.

    Raises:
        ValueError: If `impl`, tag and weights contradict each other or do not exist, or a `CoAtNetCfg` field is bad.
    """
    size, tags = request.size, tags_of(request.size)
    if request.impl is not None:
        request = replace(request, impl=known_impl(size, request.impl))
    tag_impl = tags.get(request.tag)
    _check_agreement(request, tag_impl)
    default = list_impls(size)[0]
    impl = request.impl or tag_impl or default
    own_tags = [tag for tag, i in tags.items() if i == impl]
    if request.pretrained and not own_tags and not request.has_weights:
        raise ValueError(_no_weights(size, impl))
    # timm's scripts pass the configuration of the default tag, which does not fit another implementation.
    is_own = tag_impl in (None, impl)
    fallback = own_tags[0] if own_tags else UNTRAINED if impl == default else None
    fields = {k: v for k, v in request.arguments.items() if k in field_types()}
    cfg = resolve_cfg(size, impl, **fields)
    return Choice(
        cfg=cfg,
        keeps_config=request.has_config and is_own,
        tag=request.tag if request.tag_is_explicit and request.tag and is_own else fallback,
        structure={name: getattr(cfg, name) for name in ('impl', *STRUCTURE_FIELDS, *fields)},
        arguments={k: v for k, v in request.arguments.items() if k not in fields},
    )


def _check_agreement(request: Request, tag_impl: str | None) -> None:
    saved = request.recorded.get('impl')
    if request.pretrained and saved and request.impl != str(saved).lower():
        raise ValueError(
            f'These weights were saved from impl={saved!r}, but impl={request.impl!r} was asked for; leave out impl.'
        )
    binding = request.tag_is_explicit or request.pretrained
    if binding and tag_impl and request.impl and request.impl != tag_impl:
        raise ValueError(
            f'The weights {request.size}.{request.tag} need impl={tag_impl!r}, but impl={request.impl!r} was asked '
            'for; leave out one of the two.'
        )


def _no_weights(size: str, impl: str) -> str:
    has_some = bool(tags_of(size))
    names = [f'{n} (impl={w.impl!r})' for n, w in WEIGHTS.items() if not has_some or n.partition('.')[0] == size]
    return (
        f'No weights are published for {size} with impl={impl!r}; there are {", ".join(names)}. Use pretrained=False, '
        'or hand over your own weights: pretrained_cfg_overlay=dict(file=...).'
    )
