"""The plugin for timm: importing it registers the models. The plugin builds models, loads weights and converts."""

from . import coatnet as coatnet
from .convert import Conversion as Conversion
from .convert import convert_checkpoint as convert_checkpoint
from .load import load_model as load_model
from .said import read_labels as read_labels
