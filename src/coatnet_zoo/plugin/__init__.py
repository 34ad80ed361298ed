"""The plugin for timm: importing this room registers the models; it builds them, loads weights and converts."""

from . import coatnet as coatnet
from .convert import Conversion as Conversion
from .convert import convert_checkpoint as convert_checkpoint
from .load import load_model as load_model
from .said import read_labels as read_labels
