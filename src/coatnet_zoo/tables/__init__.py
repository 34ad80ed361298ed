"""Everything that is data: sizes, implementations, weights, costs, the rules on names, grids. Needs no torch."""

from .checks import Count as Count
from .checks import check as check
from .configs import CoAtNetCfg as CoAtNetCfg
from .configs import PerBlock as PerBlock
from .configs import field_types as field_types
from .costs import COSTS as COSTS
from .fingerprints import FINGERPRINTS as FINGERPRINTS
from .grids import feature_sizes as feature_sizes
from .grids import num_offsets as num_offsets
from .impls import IMPLS as IMPLS
from .impls import PAPER_URL as PAPER_URL
from .impls import ForeignCode as ForeignCode
from .names import Choice as Choice
from .names import Request as Request
from .names import choose as choose
from .sizes import SIZES as SIZES
from .sizes import list_impls as list_impls
from .sizes import resolve_cfg as resolve_cfg
from .weights import INTERPOLATIONS as INTERPOLATIONS
from .weights import RELEASE_HOST as RELEASE_HOST
from .weights import WEIGHTS as WEIGHTS
from .weights import all_cfgs as all_cfgs
from .weights import shipped_file as shipped_file
from .weights import tags_of as tags_of
from .weights import untrained_cfg as untrained_cfg
from .weights import weights_cfg as weights_cfg
