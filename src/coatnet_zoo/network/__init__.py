"""The network: relative positions, attention, blocks, stem and head; folding it, and fitting weights to it."""

from .attention import Attention as Attention
from .attention_core import GlobalCore as GlobalCore
from .attention_core import SoftmaxAttention as SoftmaxAttention
from .attention_core import split_heads as split_heads
from .blocks import MBConv as MBConv
from .counting import multiply_adds as multiply_adds
from .counting import num_params as num_params
from .loading import adapt_state_dict as adapt_state_dict
from .loading import check_structure as check_structure
from .model import CoAtNet as CoAtNet
from .rel_pos import RelPosBias as RelPosBias
from .rel_pos import RelPosMlp as RelPosMlp
