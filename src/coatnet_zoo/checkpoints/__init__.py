"""Checkpoint files: reading a file without executing anything, recognising its code, mapping foreign tensors."""

from .checkpoint import Checkpoint as Checkpoint
from .codes import Target as Target
from .codes import Translation as Translation
from .codes import find_reader as find_reader
from .codes import foreign_codes as foreign_codes
from .codes import recognised as recognised
from .codes import translate as translate
from .files import require_regular as require_regular
from .heads import plain_head as plain_head
from .keras_h5 import require_h5py as require_h5py
from .plain import check_dense as check_dense
from .reading import not_whole as not_whole
from .reading import read_checkpoint as read_checkpoint
from .reading import read_translated as read_translated
from .recognition import create_call as create_call
from .recognition import fingerprint as fingerprint
from .recognition import identify as identify
from .recognition import is_timms as is_timms
from .state_dicts import find_network as find_network
from .structure import Structure as Structure
from .structure import shape_of as shape_of
from .values import check_values as check_values
