"""The parts of timm that this package uses and that timm may change, in one place."""

from typing import Any

from timm.models import _hub
from timm.models._builder import pretrained_cfg_for_features as pretrained_cfg_for_features
from timm.models._features import feature_take_indices as feature_take_indices
from timm.models._hub import save_config_for_hf as save_config_for_hf
from timm.models._input import update_model_args as update_model_args
from timm.models._input import update_model_input_size as update_model_input_size
from torch import nn


def set_fixed_input_size(model: nn.Module, fixed: bool) -> None:
    """Tell timm whether to prepare images for the size of the model instead of the size of its weights."""
    model._traits['fixed_input_size'] = fixed


def save_without_classes(model_class: type[nn.Module]) -> None:
    """Make timm leave `num_classes` out of the `model_args` that it saves for models of a class.

    `config.json` has the number at its top level. transformers reads the number there, and passes the number together
    with `model_args`, so `model_args` must not contain the number. timm has no hook for this: what `get_model_args`
    returns is what it saves. For all other models the function returns what it returned before.
    """
    get_model_args = _hub.get_model_args

    def without_classes(model: nn.Module, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        args = get_model_args(model, overrides)
        if isinstance(model, model_class):
            args.pop('num_classes', None)
        return args

    _hub.get_model_args = without_classes
