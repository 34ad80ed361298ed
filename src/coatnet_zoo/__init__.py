"""coatnet-zoo: the CoAtNet family as a timm plugin. Importing the package registers the models with timm."""

import importlib
from typing import TYPE_CHECKING, Any

import coatnet_zoo_command

from .version import __version__ as __version__

if TYPE_CHECKING:
    from coatnet_zoo_runtime import ExportedModelError as ExportedModelError
    from coatnet_zoo_runtime import load_exported as load_exported

    from .convert import convert_checkpoint as convert_checkpoint
    from .convert import convert_module as convert_module
    from .errors import CheckpointError as CheckpointError
    from .errors import ExplainError as ExplainError
    from .errors import ExportError as ExportError
    from .errors import HubError as HubError
    from .export import export_model as export_model
    from .images import draw_explanation as draw_explanation
    from .images import explain_image as explain_image
    from .inference import optimize_for_inference as optimize_for_inference
    from .network import CoAtNet as CoAtNet
    from .registry import CoAtNetCfg as CoAtNetCfg
    from .registry import list_impls as list_impls
    from .registry import resolve_cfg as resolve_cfg

# The public names are imported when they are first used, each from its subpackage, or from `coatnet_zoo_runtime`.
_PUBLIC = {
    'CheckpointError': 'errors',
    'CoAtNet': 'network',
    'CoAtNetCfg': 'registry',
    'ExplainError': 'errors',
    'ExportError': 'errors',
    'ExportedModelError': 'runtime',
    'HubError': 'errors',
    'convert_checkpoint': 'convert',
    'convert_module': 'convert',
    'draw_explanation': 'images',
    'explain_image': 'images',
    'export_model': 'export',
    'list_impls': 'registry',
    'load_exported': 'runtime',
    'optimize_for_inference': 'inference',
    'resolve_cfg': 'registry',
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    place = 'coatnet_zoo_runtime' if _PUBLIC[name] == 'runtime' else f'{__name__}.{_PUBLIC[name]}'
    return getattr(importlib.import_module(place), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


# The command registers the models only if it builds one.
if not coatnet_zoo_command.without_models:
    from . import factory as factory
