"""The network: the model, its blocks, attention, relative positions, initial weights, and folding for inference."""

from .attention import Attention as Attention
from .attention import SoftmaxAttention as SoftmaxAttention
from .blocks import MBConv as MBConv
from .blocks import Stem as Stem
from .blocks import TransformerBlock as TransformerBlock
from .fold import BiasAct as BiasAct
from .fold import is_unmodified as is_unmodified
from .init import initial_weights as initial_weights
from .model import CoAtNet as CoAtNet
from .model import Stage as Stage
from .model import multiply_adds as multiply_adds
from .model import num_params as num_params
from .rel_pos import RelPosBias as RelPosBias
from .rel_pos import RelPosMlp as RelPosMlp
from .rel_pos import expand_rel_pos_table as expand_rel_pos_table
