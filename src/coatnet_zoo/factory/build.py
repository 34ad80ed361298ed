"""Building a registered model: choosing the implementation and the weights by name, then calling timm's builder."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from timm.layers import to_2tuple
from timm.models import PretrainedCfg, build_model_with_cfg, resolve_pretrained_cfg
from torch import nn

from .._timm import (
    load_checkpoints_by,
    pretrained_cfg_for_features,
    save_without_classes,
    set_fixed_input_size,
    update_model_args,
)
from ..convert import not_whole
from ..errors import shown
from ..files import SAFETENSORS
from ..network import CoAtNet
from ..registry import Choice, CoAtNetCfg, Request, check_tag, choose, untrained_cfg
from .config_json import check_config_json
from .fit import check_fit, check_size, check_without_weights
from .pretrained import adapt_checked, load_file, localize, materialize

# The fields of a pretrained configuration that name the place of the weights.
_SOURCES = ('file', 'url', 'state_dict', 'hf_hub_id')

save_without_classes(CoAtNet)
load_checkpoints_by(CoAtNet, load_file)


def build(
    size: str,
    /,
    pretrained: bool = False,
    impl: str | None = None,
    pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    pretrained_model_args: dict[str, Any] | None = None,
    cache_dir: str | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a registered CoAtNet for `timm.create_model`.

    Args:
        size: Registered name without tag.
        pretrained: Load the weights of the tag.
        impl: Implementation, in any case of letters. Default: the implementation of the tag, or the first of the size.
            Without weights of this implementation, the model is untrained.
        pretrained_cfg: A tag, or a whole pretrained configuration.
        pretrained_cfg_overlay: Fields that replace those of the configuration.
        pretrained_model_args: The arguments recorded with the weights of `local-dir:` and `hf-hub:` models.
        cache_dir: Cache of huggingface_hub; see `hub.release_file` for weights of a release page.
        **kwargs: Fields of `CoAtNetCfg`, and arguments of `CoAtNet` and of `timm.models.build_model_with_cfg`.

    Raises:
        ValueError: If `impl`, tag and weights contradict each other or do not exist, or if an argument is bad.
        RuntimeError: If the size does not have the tag.
        TypeError: If an argument is unknown.
        HubError: If the weights cannot be fetched from the Hub or a release page.
        CheckpointError: If the weights do not fit, or a `config.json` does not describe a network.
    """
    tag = pretrained_cfg if isinstance(pretrained_cfg, str) else None
    if tag is not None:
        check_tag(size, tag)
    if dataclasses.is_dataclass(pretrained_cfg):
        pretrained_cfg = dataclasses.asdict(pretrained_cfg)
    given = pretrained_cfg if isinstance(pretrained_cfg, dict) else {}
    recorded = pretrained_model_args or {}
    described = None
    if given.get('source') in ('local-dir', 'hf-hub'):
        described = check_config_json(size, given, recorded)
        given = {**given, 'state_dict': None}  # weights come from a file
    choice = choose(
        Request(
            size=size,
            impl=impl,
            # A configuration from elsewhere may have any tag.
            tag=tag or (None if given.get('source') else given.get('tag')),
            tag_is_explicit=tag is not None,
            has_config=bool(given),
            pretrained=pretrained,
            has_weights=any(d.get(key) for d in (given, pretrained_cfg_overlay or {}) for key in _SOURCES),
            arguments=kwargs,
            recorded=recorded,
        )
    )
    config = given if choice.keeps_config else choice.tag or untrained_cfg(size)
    load_cfg = resolve_pretrained_cfg(size, config, pretrained_cfg_overlay)
    return _build(size, pretrained, choice, load_cfg, recorded, described, cache_dir)


def _build(
    size: str,
    pretrained: bool,
    choice: Choice,
    load_cfg: PretrainedCfg,
    recorded: dict[str, Any],
    described: tuple[str, CoAtNetCfg] | None,
    cache_dir: str | None,
) -> nn.Module:
    arguments = dict(choice.arguments)
    public_cfg = load_cfg.to_dict()
    if arguments.get('in_chans') is not None:
        # timm's scripts prepare images for the channels in the configuration.
        public_cfg['input_size'] = (arguments['in_chans'], *load_cfg.input_size[1:])
    if pretrained:
        load_cfg = localize(load_cfg, size, choice.cfg, cache_dir)
    if described:
        _check_described(*described, recorded, load_cfg, pretrained)
    # Drawing random weights, which the file replaces, would take longer than reading the file.
    from_file = pretrained and load_cfg.state_dict is None
    if from_file:
        device = arguments.pop('device', None) or torch.get_default_device()
        arguments['device'] = 'meta'
    arguments.setdefault('img_size', load_cfg.input_size[-2:])
    trained_size = recorded.get('img_size')

    def adapt(state_dict: dict[str, Any], model: CoAtNet) -> dict[str, torch.Tensor]:
        adapted = adapt_checked(state_dict, model, trained_size and to_2tuple(trained_size))
        check_fit(adapted, model, load_cfg, shown(load_cfg.file or 'The state dict'))
        return adapted

    try:
        model = build_model_with_cfg(
            CoAtNet,
            size,
            pretrained,
            pretrained_cfg=load_cfg,
            model_cfg=choice.cfg,
            feature_cfg=dict(flatten_sequential=True),
            pretrained_filter_fn=adapt,
            pretrained_model_args=recorded,
            cache_dir=cache_dir,
            **arguments,
        )
    except SafetensorError as e:
        raise not_whole(load_cfg.file, e) from e
    if from_file:
        materialize(model, device)
    # The user sees the Hub repository or the address of the weights, not the file in the cache.
    features_only = not isinstance(model, CoAtNet)
    model.pretrained_cfg = pretrained_cfg_for_features(public_cfg) if features_only else public_cfg
    model.default_cfg = model.pretrained_cfg
    # Any size works. But images are prepared for the size that the user asked for, not for the size of the weights.
    set_fixed_input_size(model, 'img_size' in choice.arguments)
    update_model_args(model, **choice.structure)
    return model


def _check_described(
    where: str, cfg: CoAtNetCfg, recorded: dict[str, Any], load_cfg: PretrainedCfg, pretrained: bool
) -> None:
    """Refuse a config.json if its network is larger than its weights, before that network is made."""
    folder = load_cfg.file if load_cfg.source == 'local-dir' else None
    file = Path(folder, SAFETENSORS) if folder else Path(load_cfg.file) if load_cfg.file else None
    if file is not None and not file.is_file():
        file = None
    if file is not None:
        check_size(where, cfg, recorded, load_cfg.input_size[-2:], file)
    if not pretrained:
        names = ('img_size', 'in_chans', 'num_classes')
        arguments = {name: recorded[name] for name in names if name in recorded}
        arguments.setdefault('num_classes', load_cfg.num_classes)
        check_without_weights(where, CoAtNet(cfg, **arguments, device='meta'), file)
