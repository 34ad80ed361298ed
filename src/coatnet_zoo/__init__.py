"""coatnet-zoo: the CoAtNet family as a timm plugin. Importing it registers the models with timm."""

from . import coatnet as coatnet
from .configs import CoAtNetCfg, list_impls, resolve_cfg
from .convert import convert_checkpoint
from .errors import CheckpointError
from .explain import ExplainError, explain_image
from .hub import HubError
from .model import CoAtNet
from .optimize import optimize_for_inference
from .picture import draw_explanation

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
