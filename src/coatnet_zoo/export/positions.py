"""Large feature maps in graphs of one size: position tables are stored, and not the biases of all pairs of positions.

A converter computes once what does not depend on the images, and stores the result. The biases of all pairs grow with
the fourth power of the side of the image: 1.9 GB in `coatnet_nano` at 896 pixels, which has 63 MB of weights.
"""

import torch

from ..network import Attention, CoAtNet, attention_sizes, look_up_pairs


class AttentionByTable(Attention):
    """Attention that looks the biases up in every call."""

    def attend(self, qkv: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """See `Attention.attend`."""
        rows, cols = self.core.grid(height, width)
        # Always 0, but known only at run time, and so are the indices, which grow with the third power of the side.
        zero = (qkv[:1, 0, 0].abs() < 0).to(torch.int64)
        ys, xs = torch.arange(rows) + zero, torch.arange(cols) + zero
        bias = look_up_pairs(self.rel_pos(rows, cols), rows, cols, ys, xs)
        return self.core(qkv, bias, height, width)


def keep_tables(network: CoAtNet) -> None:
    """Make attention at the `img_size` of a network look biases up in every call, except for a fifth of its weights."""
    budget = sum(p.nbytes for p in network.parameters()) // 5
    for attn, size in attention_sizes(network):
        if type(attn) is Attention and network.cfg.rel_attn != 'none':
            height, width = attn.core.grid(*size)
            stored = attn.num_heads * (height * width) ** 2 * 4
            if stored > budget:
                attn.__class__ = AttentionByTable
            else:
                budget -= stored
