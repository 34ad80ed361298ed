"""Checking how a `config.json` describes a network, before anything is built from the file.

timm reads the `config.json` of `local-dir:` and `hf-hub:` models and passes on the content.
"""

from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal, get_type_hints

from timm.layers import to_2tuple
from timm.models import PretrainedCfg

from ..convert import check_arguments, check_fields
from ..errors import CheckpointError, shown
from ..registry import (
    Channels,
    Classes,
    CoAtNetCfg,
    Crop,
    Positive,
    Side,
    check_window,
    field_types,
    list_impls,
    resolve_cfg,
)

_Image = tuple[Channels, Side, Side]
_Texts = str | tuple[str, ...] | None
# The fields of a pretrained configuration, with their types; stricter than timm's where a wrong value does harm.
_PRETRAINED_FIELDS = {
    **get_type_hints(PretrainedCfg),
    **dict.fromkeys(('url', 'origin_url', 'paper_ids', 'notes'), _Texts),
    'state_dict': NoneType,
    'custom_load': bool | str,
    'input_size': _Image,
    'test_input_size': _Image | None,
    'min_input_size': _Image | None,
    'crop_pct': Crop,
    'test_crop_pct': Crop | None,
    'std': tuple[Positive, ...],
    'num_classes': Classes,
    'label_offset': Literal[0] | None,
    'label_names': tuple[str, ...] | dict | None,
    'label_descriptions': dict | None,
    'first_conv': Literal['stem.conv1'] | None,
    'classifier': Literal['head.fc'] | None,
}


def check_config_json(size: str, pretrained_cfg: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Refuse a `config.json` that describes no network: the configuration and the arguments that timm read there.

    Raises:
        CheckpointError: If a field does not fit. The message has the place of the file and the field.
    """
    place = pretrained_cfg['file' if pretrained_cfg['source'] == 'local-dir' else 'hf_hub_id']
    try:
        check_fields('pretrained_cfg', pretrained_cfg, _PRETRAINED_FIELDS)
        check_arguments(arguments)
        structure = {name: value for name, value in arguments.items() if name in field_types() and name != 'impl'}
        cfg = resolve_cfg(size, arguments.get('impl', list_impls(size)[0]), **structure)
        _check_agreement(pretrained_cfg, arguments, cfg)
    except ValueError as e:
        raise CheckpointError(f'{size} cannot be built from the config.json of {shown(place)}: {e}') from e


def _check_agreement(pretrained_cfg: Mapping[str, Any], arguments: Mapping[str, Any], cfg: CoAtNetCfg) -> None:
    stated = pretrained_cfg.get('num_classes', PretrainedCfg.num_classes)
    recorded = arguments.get('num_classes', stated)
    if stated != recorded:
        raise ValueError(f'num_classes is {stated}, but {recorded} in model_args; correct the one that is wrong.')
    if recorded and arguments.get('global_pool') == '':
        raise ValueError(f"global_pool='' is no pooling, but num_classes={recorded} needs one; correct one of them.")
    size = arguments.get('img_size', pretrained_cfg.get('input_size', PretrainedCfg.input_size)[-2:])
    check_window(cfg, to_2tuple(size))
