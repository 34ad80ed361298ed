"""timm's entrypoints for the CoAtNet family, and the rules that turn a name, a tag and an `impl` into a model.

The structure of a model depends on its name, its tag (or the default tag) and the explicit keyword arguments, never
on whether weights are loaded.
"""

import dataclasses
from functools import partial
from typing import Any

import torch
from safetensors import SafetensorError
from timm.layers import to_2tuple
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    get_pretrained_cfg,
    register_model,
    resolve_pretrained_cfg,
)
from timm.models._builder import pretrained_cfg_for_features
from timm.models._input import update_model_args
from torch import nn

from ..errors import CheckpointError
from ..network.model import CoAtNet
from ..tables.configs import STRUCTURE_FIELDS, CoAtNetCfg, list_impls, resolve_cfg
from ..tables.weights import WEIGHTS, all_cfgs, tags_of, untrained_cfg
from .pretrained import adapt_checked, localize, materialize

__all__ = ['default_cfgs']  # register_model adds the entrypoints

default_cfgs = generate_default_cfgs(all_cfgs())
_CFG_FIELDS = {f.name for f in dataclasses.fields(CoAtNetCfg)} - {'impl'}


def _resolve_impl(
    size: str, impl: str | None, pretrained: bool, pretrained_cfg: Any, pretrained_cfg_overlay: dict[str, Any] | None
) -> tuple[str, Any]:
    """Decide the implementation, and the pretrained_cfg that goes with it.

    Returns:
        The implementation, and what to hand to timm as `pretrained_cfg`.

    Raises:
        ValueError: If the arguments contradict each other, or ask for weights that are not published.
    """
    impls = list_impls(size)
    tags = tags_of(size)
    if impl is not None and impl not in impls:
        raise ValueError(f'{size} has no impl={impl!r}; it has {", ".join(impls)}.')

    explicit_tag = pretrained_cfg if isinstance(pretrained_cfg, str) else None
    if explicit_tag is not None:
        get_pretrained_cfg(f'{size}.{explicit_tag}')  # raises for a tag that does not exist
    if dataclasses.is_dataclass(pretrained_cfg):
        pretrained_cfg = dataclasses.asdict(pretrained_cfg)
    cfg = pretrained_cfg if isinstance(pretrained_cfg, dict) else {}
    tag = explicit_tag or cfg.get('tag')
    tag_impl = None if cfg.get('source') else tags.get(tag)
    if tag_impl and impl and impl != tag_impl and (explicit_tag or pretrained):
        raise ValueError(
            f'The weights {size}.{tag} need impl={tag_impl!r}, but impl={impl!r} was asked for; leave out one of them.'
        )
    impl = impl or tag_impl or impls[0]
    # A configuration that names other weights than those of `impl` is of no use; timm's scripts pass the default one.
    given = pretrained_cfg if tag_impl in (None, impl) else None
    own_tags = [t for t, i in tags.items() if i == impl]
    unnamed = None if impl == impls[0] else untrained_cfg(size)
    named = given or (own_tags[0] if own_tags else unnamed)

    sources = ('file', 'url', 'state_dict', 'hf_hub_id')
    handed_over = any(d.get(key) for d in (cfg, pretrained_cfg_overlay or {}) for key in sources)
    if pretrained and not own_tags and not handed_over:
        names = [f'{n} (impl={w.impl!r})' for n, w in WEIGHTS.items() if not tags or n.partition('.')[0] == size]
        raise ValueError(
            f'No weights are published for {size} with impl={impl!r}; there are {", ".join(names)}. Use '
            'pretrained=False, or hand over your own: pretrained_cfg_overlay=dict(file=...).'
        )
    return impl, named


def _create_coatnet(size: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build a registered CoAtNet as `timm.create_model` asks for it.

    Args:
        size: Registered name without tag.
        pretrained: Load the weights of the tag.
        **kwargs: What follows, then fields of `CoAtNetCfg`, then arguments of `CoAtNet` and of
            `timm.models.build_model_with_cfg`.
        impl: Implementation; by default the one that the tag needs, or the size's first.
        pretrained_cfg: A tag, or a whole pretrained configuration.
        pretrained_cfg_overlay: Replaces fields of it.
        pretrained_model_args: The arguments recorded with the weights of `local-dir:` and `hf-hub:` models.
        cache_dir: Cache of huggingface_hub; see `releases.release_file` for weights of a release page.

    Raises:
        ValueError: If `impl`, tag and weights contradict each other or do not exist.
        TypeError: If an argument is unknown.
        HubError: If the weights cannot be had from the Hub or a release page.
        CheckpointError: If the weights do not fit, or a `config.json` does not describe a network.
    """
    cfg = kwargs.get('pretrained_cfg')
    try:
        return _build(size, pretrained, **kwargs)
    except (TypeError, AttributeError, KeyError, IndexError, AssertionError) as e:
        if isinstance(cfg, dict) and cfg.get('source') in ('local-dir', 'hf-hub'):
            where = cfg.get('file') if cfg['source'] == 'local-dir' else cfg.get('hf_hub_id')
            raise CheckpointError(f'{size} cannot be built from the config.json of {where}: {e!r}.') from e
        raise


def _build(
    size: str,
    pretrained: bool = False,
    impl: str | None = None,
    pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    pretrained_model_args: dict[str, Any] | None = None,
    cache_dir: str | None = None,
    **kwargs: Any,
) -> nn.Module:
    saved_impl, saved_size = ((pretrained_model_args or {}).get(key) for key in ('impl', 'img_size'))
    if pretrained and saved_impl and impl != saved_impl:
        raise ValueError(
            f'These weights were saved from impl={saved_impl!r}, but impl={impl!r} was asked for; leave out impl.'
        )
    impl, pretrained_cfg = _resolve_impl(size, impl, pretrained, pretrained_cfg, pretrained_cfg_overlay)
    overrides = {k: kwargs.pop(k) for k in _CFG_FIELDS & set(kwargs)}
    cfg = resolve_cfg(size, impl, **overrides)

    load_cfg = resolve_pretrained_cfg(size, pretrained_cfg, pretrained_cfg_overlay)
    public_cfg = load_cfg.to_dict()
    if kwargs.get('in_chans') is not None:
        # timm's scripts prepare images for what it says.
        public_cfg['input_size'] = (kwargs['in_chans'], *load_cfg.input_size[1:])
    if pretrained:
        load_cfg = localize(load_cfg, size, cache_dir)
    # Random weights that the file's replace would take longer to draw than the file to read.
    from_file = pretrained and load_cfg.state_dict is None
    if from_file:
        device = kwargs.pop('device', None) or torch.get_default_device()
        kwargs['device'] = 'meta'

    asked_size = 'img_size' in kwargs
    kwargs.setdefault('img_size', load_cfg.input_size[-2:])
    try:
        model = build_model_with_cfg(
            CoAtNet,
            size,
            pretrained,
            pretrained_cfg=load_cfg,
            model_cfg=cfg,
            feature_cfg=dict(flatten_sequential=True),
            pretrained_filter_fn=partial(adapt_checked, img_size=saved_size and to_2tuple(saved_size)),
            pretrained_model_args=pretrained_model_args,
            cache_dir=cache_dir,
            **kwargs,
        )
    except SafetensorError as e:
        raise CheckpointError(f'{load_cfg.file} is not a whole safetensors file ({e}); fetch or save it again.') from e
    if from_file:
        materialize(model, device)
    # What the user sees names the Hub repository or URL, not the file in the cache that it was loaded from.
    features_only = not isinstance(model, CoAtNet)
    model.pretrained_cfg = pretrained_cfg_for_features(public_cfg) if features_only else public_cfg
    model.default_cfg = model.pretrained_cfg
    # Any size works; but one that was asked for is the one to prepare images for, whatever the weights' was.
    model._traits['fixed_input_size'] = asked_size
    structure = {name: getattr(cfg, name) for name in (*STRUCTURE_FIELDS, *overrides)}
    update_model_args(model, impl=impl, **structure)
    return model


@register_model
def coatnet_atto(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CoAtNet of below 1 M parameters, ours, for tests, demos and small images."""
    return _create_coatnet('coatnet_atto', pretrained, **kwargs)


@register_model
def coatnet_nano(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CoAtNet-nano, timm's."""
    return _create_coatnet('coatnet_nano', pretrained, **kwargs)


@register_model
def coatnet_0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CoAtNet-0."""
    return _create_coatnet('coatnet_0', pretrained, **kwargs)


@register_model
def coatnet_1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CoAtNet-1."""
    return _create_coatnet('coatnet_1', pretrained, **kwargs)


@register_model
def coatnet_2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CoAtNet-2."""
    return _create_coatnet('coatnet_2', pretrained, **kwargs)


@register_model
def coatnet_3(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CoAtNet-3."""
    return _create_coatnet('coatnet_3', pretrained, **kwargs)


@register_model
def coatnet_4(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CoAtNet-4."""
    return _create_coatnet('coatnet_4', pretrained, **kwargs)


@register_model
def coatnet_5(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CoAtNet-5, 688 M parameters."""
    return _create_coatnet('coatnet_5', pretrained, **kwargs)


@register_model
def coatnet_6(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CoAtNet-6, 1.47 B parameters."""
    return _create_coatnet('coatnet_6', pretrained, **kwargs)


@register_model
def coatnet_7(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CoAtNet-7, 2.44 B parameters."""
    return _create_coatnet('coatnet_7', pretrained, **kwargs)


@register_model
def vit_rel_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT_REL of the size of timm's `vit_tiny_patch16_224`."""
    return _create_coatnet('vit_rel_tiny', pretrained, **kwargs)


@register_model
def vit_rel_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT_REL of the size of timm's `vit_small_patch16_224`."""
    return _create_coatnet('vit_rel_small', pretrained, **kwargs)


@register_model
def vit_rel_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT_REL of the size of timm's `vit_base_patch16_224`."""
    return _create_coatnet('vit_rel_base', pretrained, **kwargs)
