"""The rules on names: which implementation and which weights a size, a tag and an `impl` mean.

The structure of a model depends on its name, its tag (or the default tag) and the explicit arguments. It never depends
on whether weights are loaded.
"""

from .checks import short
from .sizes import known_impl, list_impls
from .spelling import did_you_mean
from .weights import WEIGHTS, tags_of


def choose(
    size: str, impl: str | None = None, tag: str | None = None, *, tag_is_explicit: bool = True,
    pretrained: bool = False, has_weights: bool = False, recorded_impl: str | None = None,
) -> tuple[str, str | None]:  # fmt: skip
    """Decide which implementation and which pretrained configuration a request to `timm.create_model` means.

    Args:
        size: Registered name without tag.
        impl: Implementation, if the request names one. The case of letters does not matter.
        tag: Tag of weights, from the name or from a configuration that timm's scripts pass on.
        tag_is_explicit: Whether the tag is part of the name.
        pretrained: Whether weights are to be loaded.
        has_weights: Whether the weights themselves are given: a file, an address, a repository or tensors.
        recorded_impl: The implementation that the given weights were saved from.

    Returns:
        The implementation, and the tag whose configuration the network gets. The tag is `tag` unless it belongs to
        another implementation; None means a configuration without weights.

    Raises:
        ValueError: If `impl`, tag and weights contradict each other or do not exist.
        RuntimeError: If the size does not have an explicit tag; as timm raises it, with the tags of the size.
    """
    tags, default = tags_of(size), list_impls(size)[0]
    if tag and tag_is_explicit and tag not in (tags or ['untrained']):
        question = did_you_mean(f'{size}.{tag}')
        raise RuntimeError(f'Invalid pretrained tag ({short(tag)[1:-1]}) for {size}. {question}'.rstrip())
    impl = impl and known_impl(size, impl)
    if pretrained and recorded_impl and impl != recorded_impl.lower():
        raise ValueError(
            f'These weights were saved from impl={recorded_impl!r}, but impl={impl!r} was requested; leave out impl.'
        )
    tag_impl = tags.get(tag)
    if (tag_is_explicit or pretrained) and impl and tag_impl not in (None, impl):
        raise ValueError(
            f'The weights {size}.{tag} need impl={tag_impl!r}, but impl={impl!r} was requested; leave out one of them.'
        )
    impl = impl or tag_impl or default
    own_tags = [tag for tag, i in tags.items() if i == impl]
    if pretrained and not own_tags and not has_weights:
        some = [f'{n} (impl={w.impl!r})' for n, w in WEIGHTS.items() if not tags or n.partition('.')[0] == size]
        raise ValueError(
            f'No weights are published for {size} with impl={impl!r}; available: {", ".join(some)}. Use '
            'pretrained=False, or pass your own weights: pretrained_cfg_overlay=dict(file=...).'
        )
    # timm's scripts pass the configuration of the default tag, which does not fit another implementation.
    if tag and tag_impl in (None, impl):
        return impl, tag
    return impl, own_tags[0] if own_tags else 'untrained' if impl == default else None
