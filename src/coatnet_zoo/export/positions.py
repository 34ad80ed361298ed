"""Large feature maps in graphs of one size: position tables are stored, and not the biases of all pairs of positions.

A converter computes once what does not depend on the images, and stores the result. The biases of all pairs grow with
the fourth power of the side of the image: 1.9 GB in `coatnet_nano` at 896 pixels, which has 63 MB of weights.
"""

import torch

from ..network import Attention, CoAtNet
from ..registry import feature_sizes

_MOST = 256  # positions whose biases are stored: a feature map of 256 pixels


class AttentionByTable(Attention):
    """Attention that looks the biases up in every call."""

    def attend(self, qkv: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """See `Attention.attend`."""
        some = qkv[:1, 0, 0]
        one = (some == some).to(qkv.dtype)  # always 1, but known only at run time
        return self.core(qkv, self.rel_pos(*self.core.grid(height, width)) * one, height, width)


def keep_tables(network: CoAtNet) -> None:
    """Make attention over large feature maps, at the `img_size` of a network, look its biases up in every call."""
    sizes = feature_sizes(network.img_size, len(network.stages), network.cfg.patch_size)
    for stage, size in zip(network.stages, sizes, strict=True):
        for attn in stage.modules():
            if type(attn) is Attention and network.cfg.rel_attn != 'none':
                height, width = attn.core.grid(*size)
                if height * width > _MOST:
                    attn.__class__ = AttentionByTable
