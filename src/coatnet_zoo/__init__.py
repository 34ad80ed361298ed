"""coatnet-zoo: the CoAtNet family as a timm plugin. Importing it registers the models with timm."""

from . import coatnet as coatnet
from .configs import CoAtNetCfg, list_impls, resolve_cfg
from .convert import convert_checkpoint
from .errors import CheckpointError
from .hub import HubError
from .model import CoAtNet
from .optimize import optimize_for_inference

__all__ = [
    'CheckpointError',
    'CoAtNet',
    'CoAtNetCfg',
    'HubError',
    'convert_checkpoint',
    'list_impls',
    'optimize_for_inference',
    'resolve_cfg',
]
