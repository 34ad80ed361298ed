"""The parts of timm that this package uses and that timm may change, in one place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from timm.models import _factory, _hub
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
    with `model_args`, so `model_args` must not contain the number.
    """
    get_model_args = _hub.get_model_args

    def without_classes(model: nn.Module, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        args = get_model_args(model, overrides)
        if isinstance(model, model_class):
            args.pop('num_classes', None)
        return args

    _hub.get_model_args = without_classes


def load_checkpoints_by(model_class: type[nn.Module], load: Callable[[nn.Module, Any], None]) -> None:
    """Make `timm.create_model(..., checkpoint_path=...)` load files into models of a class by a function.

    timm does not check files for damage, and knows fewer keys and prefixes of state dicts.

    Args:
        model_class: The class.
        load: Called with the model and the path of the file.
    """
    load_checkpoint = _factory.load_checkpoint

    def load_by_class(model: nn.Module, checkpoint_path: Any, **kwargs: Any) -> Any:
        if isinstance(model, model_class) and not kwargs:
            return load(model, checkpoint_path)
        return load_checkpoint(model, checkpoint_path, **kwargs)

    _factory.load_checkpoint = load_by_class


def find_config_first(find: Callable[[str, str | Path | None], Path | None]) -> None:
    """Make timm ask a function for the `config.json` of an `hf-hub:` name before timm itself asks the Hub.

    Args:
        find: Takes the repository and the cache folder. Returns a file, or None if timm is to ask the Hub.
    """
    download_from_hf = _hub.download_from_hf

    def download(model_id: str, filename: str, cache_dir: str | Path | None = None) -> str:
        file = find(model_id, cache_dir) if filename == 'config.json' else None
        return str(file or download_from_hf(model_id, filename, cache_dir=cache_dir))

    _hub.download_from_hf = download
