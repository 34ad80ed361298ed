"""The network: the model, its blocks, attention, relative positions, initial weights, and folding for inference."""

from .attention import Attention, SoftmaxAttention
from .blocks import MBConv, Stem, TransformerBlock
from .fold import BiasAct, is_pointwise, is_unmodified
from .init import initial_weights
from .model import CoAtNet, Stage, attention_sizes
from .rel_pos import RelPosBias, RelPosMlp, expand_rel_pos_table, look_up_pairs
