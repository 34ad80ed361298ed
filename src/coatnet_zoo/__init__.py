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
    from .errors import FinetuneError as FinetuneError
    from .errors import HubError as HubError
    from .export import export_model as export_model
    from .finetuning import finetune as finetune
    from .images import draw_explanation as draw_explanation
    from .images import explain_image as explain_image
    from .inference import optimize_for_inference as optimize_for_inference
    from .network import CoAtNet as CoAtNet
    from .registry import CoAtNetCfg as CoAtNetCfg
    from .registry import list_impls as list_impls
    from .registry import resolve_cfg as resolve_cfg

# The public names, by module; each is imported when it is first used.
_PUBLIC = {
    'coatnet_zoo_runtime': ('ExportedModelError', 'load_exported'),
    '.convert': ('convert_checkpoint', 'convert_module'),
    '.errors': ('CheckpointError', 'ExplainError', 'ExportError', 'FinetuneError', 'HubError'),
    '.export': ('export_model',),
    '.finetuning': ('finetune',),
    '.images': ('draw_explanation', 'explain_image'),
    '.inference': ('optimize_for_inference',),
    '.network': ('CoAtNet',),
    '.registry': ('CoAtNetCfg', 'list_impls', 'resolve_cfg'),
}
__all__ = sorted(name for names in _PUBLIC.values() for name in names)


def __getattr__(name: str) -> Any:
    for module, names in _PUBLIC.items():
        if name in names:
            return getattr(importlib.import_module(module, __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# The command registers the models only if it builds one.
if not coatnet_zoo_command.without_models:
    from . import factory as factory
