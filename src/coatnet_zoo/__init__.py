"""coatnet-zoo: the CoAtNet family as a timm plugin. Importing it registers the models with timm."""

from .errors import CheckpointError
from .explain.evidence import ExplainError, explain_image
from .explain.picture import draw_explanation
from .hub.fetch import HubError
from .inference.optimize import optimize_for_inference
from .network.model import CoAtNet
from .plugin import coatnet as coatnet
from .plugin.convert import convert_checkpoint
from .tables.configs import CoAtNetCfg, list_impls, resolve_cfg

__all__ = [
    'CheckpointError',
    'CoAtNet',
    'CoAtNetCfg',
    'ExplainError',
    'HubError',
    'convert_checkpoint',
    'draw_explanation',
    'explain_image',
    'list_impls',
    'optimize_for_inference',
    'resolve_cfg',
]
