"""Checkpoint files: reading a file without executing anything, recognising who wrote it, mapping its tensors."""

from .adapter import Checkpoint, Structure
from .convert import Conversion, convert_checkpoint, convert_module
from .folders import is_folder, read_folder
from .loading import Adapted, adapt_state_dict, take_timms_layers
from .preprocessing import ARGUMENTS, average, check_arguments, check_fields, label_list, read_labels
from .reading import corrupt, read_checkpoint, require_regular
from .recognition import fingerprint, identify
from .source import translate
from .values import check_shapes
