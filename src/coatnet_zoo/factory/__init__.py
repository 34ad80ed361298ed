"""The plugin for timm: importing it registers the models. The factory builds models and loads their weights."""

from . import coatnet
from .load import load_model
