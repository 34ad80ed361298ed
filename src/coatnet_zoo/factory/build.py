"""Building a registered model: choosing the implementation and the weights by name, then calling timm's builder."""

import dataclasses
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from timm.layers import to_2tuple
from timm.models import PretrainedCfg, build_model_with_cfg, resolve_pretrained_cfg
from torch import nn

from .._timm import pretrained_cfg_for_features, save_without_classes, set_fixed_input_size, update_model_args
from ..convert import ARGUMENTS, Checkpoint, adapt_state_dict, check_fields, corrupt, read_checkpoint
from ..errors import shown
from ..network import CoAtNet
from ..registry import STRUCTURE_FIELDS, CoAtNetCfg, choose, field_types, resolve_cfg, untrained_cfg
from .config_json import check_config_json
from .weights import check_fit, localize, materialize

# The fields of a pretrained configuration that name the place of the weights.
_SOURCES = ('file', 'url', 'state_dict', 'hf_hub_id')

save_without_classes(CoAtNet)


def build(
    size: str, /, pretrained: bool = False, impl: str | None = None,
    pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None, pretrained_model_args: dict[str, Any] | None = None,
    cache_dir: str | None = None, **kwargs: Any,
) -> nn.Module:  # fmt: skip
    """Build a registered CoAtNet for `timm.create_model`.

    Args:
        size: Registered name without tag.
        pretrained: Load the weights of the tag.
        impl: Implementation, in any case of letters. Default: the implementation of the tag, or the first of the size.
            Without weights of this implementation, the model is untrained.
        pretrained_cfg: A tag, or a complete pretrained configuration.
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
    kwargs = {name: v.item() if isinstance(v, np.generic) else v for name, v in kwargs.items()}
    tag = pretrained_cfg if isinstance(pretrained_cfg, str) else None
    if dataclasses.is_dataclass(pretrained_cfg):
        pretrained_cfg = dataclasses.asdict(pretrained_cfg)
    given = pretrained_cfg if isinstance(pretrained_cfg, dict) else {}
    recorded = pretrained_model_args or {}
    if given.get('source') in ('local-dir', 'hf-hub'):
        check_config_json(size, given, recorded)
        given = {**given, 'state_dict': None}  # weights come from a file
    check_fields('The call', {k: v for k, v in kwargs.items() if k in ARGUMENTS and v is not None}, ARGUMENTS)
    overlay = pretrained_cfg_overlay or {}
    if any(overlay.get(key) for key in _SOURCES):  # weights of the user replace those of the name
        overlay = {**dict.fromkeys((*_SOURCES, 'source')), **overlay}
    # A configuration from elsewhere may have any tag.
    wanted = tag or (None if given.get('source') else given.get('tag'))
    impl, chosen = choose(
        size,
        impl,
        wanted,
        tag_is_explicit=tag is not None,
        pretrained=pretrained,
        has_weights=any(d.get(key) for d in (given, overlay) for key in _SOURCES),
        recorded_impl=recorded.get('impl'),
    )
    structure = {name: kwargs.pop(name) for name in field_types() if name in kwargs}
    cfg = resolve_cfg(size, impl, **structure)
    keeps_given = given and wanted in (None, chosen)
    load_cfg = resolve_pretrained_cfg(size, given if keeps_given else chosen or untrained_cfg(size), overlay)
    model = _build(size, cfg, load_cfg, pretrained, recorded, cache_dir, kwargs)
    update_model_args(model, **{name: getattr(cfg, name) for name in ('impl', *STRUCTURE_FIELDS, *structure)})
    return model


def _build(
    size: str, cfg: CoAtNetCfg, load_cfg: PretrainedCfg, pretrained: bool, recorded: dict[str, Any],
    cache_dir: str | None, arguments: dict[str, Any],
) -> nn.Module:  # fmt: skip
    public_cfg = load_cfg.to_dict()
    if arguments.get('in_chans') is not None:
        # timm's scripts prepare images for the channels in the configuration.
        public_cfg['input_size'] = (arguments['in_chans'], *load_cfg.input_size[1:])
    has_size = 'img_size' in arguments
    arguments.setdefault('img_size', load_cfg.input_size[-2:])
    checkpoint: Checkpoint | None = None
    if pretrained:
        load_cfg = localize(load_cfg, size, cache_dir)
    is_mapped = pretrained and (load_cfg.file or '').endswith('.safetensors')
    what = shown(load_cfg.file or 'The state dict')
    if is_mapped:
        device = arguments.pop('device', None) or torch.get_default_device()
        arguments['device'] = 'meta'  # drawing weights that the file replaces would take longer than reading it
    elif pretrained and load_cfg.file:
        # timm checks no file for damage, and reads torch's files only. It would copy tensors in a configuration.
        checkpoint = read_checkpoint(load_cfg.file, ema=None)
        load_cfg = dataclasses.replace(load_cfg, state_dict={'replaced by': 'checkpoint'})

    def adapt(state_dict: dict[str, Any], model: CoAtNet) -> dict[str, torch.Tensor]:
        img_size = recorded.get('img_size')
        adapted = adapt_state_dict(checkpoint or state_dict, model, img_size and to_2tuple(img_size))
        check_fit(adapted, model, load_cfg, what)
        return adapted

    try:
        model = build_model_with_cfg(
            CoAtNet,
            size,
            pretrained,
            pretrained_cfg=load_cfg,
            model_cfg=cfg,
            feature_cfg=dict(flatten_sequential=True, out_indices=tuple(range(len(cfg.depths) + 1))),
            pretrained_filter_fn=adapt,
            pretrained_model_args=recorded,
            cache_dir=cache_dir,
            **arguments,
        )
    except SafetensorError as e:
        raise corrupt(load_cfg.file, 'safetensors file', e) from e
    if is_mapped:
        materialize(model, device)
    # The user sees the Hub repository or the address of the weights, not the file in the cache.
    features_only = not isinstance(model, CoAtNet)
    model.pretrained_cfg = pretrained_cfg_for_features(public_cfg) if features_only else public_cfg
    model.default_cfg = model.pretrained_cfg
    # Any size works. But images are prepared for the size that the user asked for, not for the size of the weights.
    set_fixed_input_size(model, has_size)
    return model
