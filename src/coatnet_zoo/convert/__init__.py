"""Checkpoint files: reading a file without executing anything, recognising its code, mapping third-party tensors."""

from .adapter import Checkpoint as Checkpoint
from .adapter import Structure as Structure
from .adapter import translate as translate
from .convert import Conversion as Conversion
from .convert import convert_checkpoint as convert_checkpoint
from .convert import convert_module as convert_module
from .folders import is_folder as is_folder
from .folders import read_folder as read_folder
from .loading import Adapted as Adapted
from .loading import adapt_state_dict as adapt_state_dict
from .loading import take_timms_layers as take_timms_layers
from .preprocessing import ARGUMENTS as ARGUMENTS
from .preprocessing import average as average
from .preprocessing import check_arguments as check_arguments
from .preprocessing import check_fields as check_fields
from .preprocessing import read_labels as read_labels
from .reading import corrupt as corrupt
from .reading import read_checkpoint as read_checkpoint
from .reading import require_regular as require_regular
from .recognition import fingerprint as fingerprint
from .recognition import identify as identify
from .values import check_shapes as check_shapes
