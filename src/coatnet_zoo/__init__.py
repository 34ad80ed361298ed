"""coatnet-zoo: the CoAtNet family as a timm plugin. Importing the package registers the models with timm."""

import coatnet_zoo_command

from .version import __version__ as __version__

# The command imports only the parts of the package that the command needs. Most commands need no torch.
if not coatnet_zoo_command.without_models:
    from . import factory as factory
    from .convert import convert_checkpoint
    from .errors import CheckpointError, ExplainError, ExportError, HubError
    from .export import export_model
    from .images import draw_explanation, explain_image
    from .inference import load_optimized, optimize_for_inference, quantization_report, save_optimized
    from .network import CoAtNet
    from .registry import CoAtNetCfg, list_impls, resolve_cfg

    __all__ = [
        'CheckpointError',
        'CoAtNet',
        'CoAtNetCfg',
        'ExplainError',
        'ExportError',
        'HubError',
        'convert_checkpoint',
        'draw_explanation',
        'explain_image',
        'export_model',
        'list_impls',
        'load_optimized',
        'optimize_for_inference',
        'quantization_report',
        'resolve_cfg',
        'save_optimized',
    ]
