"""The network: relative positions, attention, blocks, stem and head; folding layers, and loading weights."""

from .attention import Attention as Attention
from .attention_core import GlobalCore as GlobalCore
from .attention_core import LinearAttention as LinearAttention
from .attention_core import PostBiasAttention as PostBiasAttention
from .attention_core import SoftmaxAttention as SoftmaxAttention
from .attention_core import split_heads as split_heads
from .blocks import MBConv as MBConv
from .blocks import TransformerBlock as TransformerBlock
from .counting import multiply_adds as multiply_adds
from .counting import num_params as num_params
from .exact import is_exactly as is_exactly
from .fusion import BATCH_NORMS as BATCH_NORMS
from .layers import AvgPool2x2 as AvgPool2x2
from .layers import Downsample as Downsample
from .layers import MaxPool2x2 as MaxPool2x2
from .loading import adapt_state_dict as adapt_state_dict
from .loading import check_structure as check_structure
from .model import CoAtNet as CoAtNet
from .model import Stage as Stage
from .rel_pos import NoRelPos as NoRelPos
from .rel_pos import RelPosBias as RelPosBias
from .rel_pos import RelPosMlp as RelPosMlp
from .stem import PatchStem as PatchStem
from .stem import Stem as Stem
from .transforms import is_transformed as is_transformed
from .windows import WindowCore as WindowCore
