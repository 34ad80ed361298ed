"""The registry: sizes, implementations, weights, costs, and the rules on names and structures. It needs no torch."""

from .checks import Channels, Classes, Crop, Positive, Share, Side, check, short
from .configs import STRUCTURE_FIELDS, CoAtNetCfg, PerBlock, check_window, feature_sizes, field_types, num_offsets
from .generated import COSTS, FINGERPRINTS
from .impls import IMPLS, PAPER_URL, Implementation, ThirdPartyCode
from .names import choose
from .sizes import SIZES, list_impls, resolve_cfg
from .spelling import TIMM_NAMES, call_of, did_you_mean, no_such, our_name, timm_tags
from .weights import (
    INTERPOLATIONS,
    RELEASE_HOST,
    WEIGHTS,
    all_cfgs,
    bundled_file,
    default_cfg,
    tags_of,
    untrained_cfg,
    weights_cfg,
)
