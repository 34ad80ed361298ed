"""Everything that is data: sizes, implementations, weights, costs, the rules on names, grids. Needs no torch."""

from .configs import CoAtNetCfg as CoAtNetCfg
from .costs import COSTS as COSTS
from .grids import feature_sizes as feature_sizes
from .grids import num_offsets as num_offsets
from .impls import IMPLS as IMPLS
from .sizes import SIZES as SIZES
from .sizes import list_impls as list_impls
from .sizes import resolve_cfg as resolve_cfg
from .weights import INTERPOLATIONS as INTERPOLATIONS
from .weights import RELEASE_HOST as RELEASE_HOST
from .weights import WEIGHTS as WEIGHTS
from .weights import shipped_file as shipped_file
from .weights import tags_of as tags_of
from .weights import weights_cfg as weights_cfg
