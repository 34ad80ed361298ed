"""Stems: the first convolutions of a network, or the convolution that cuts images into patches, as in ViTs."""

import itertools

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, get_act_layer
from torch import nn

from ..registry import CoAtNetCfg
from .exact import is_exactly
from .fused import can_fuse, fused_layers
from .fusion import fold_after
from .init import initial_weights


def check_images(x: torch.Tensor) -> None:
    """Refuse images (B, C, H, W) that are too small or have whole numbers."""
    # An `assert` would break tracing, and tracing does not support `and`.
    torch._assert(
        x.is_floating_point(),
        'CoAtNet needs images in floating point; prepare them by '
        'timm.data.create_transform(**timm.data.resolve_model_data_config(model)).',
    )
    torch._assert(x.shape[-2] >= 32, 'CoAtNet needs images of at least 32x32 pixels; resize them.')
    torch._assert(x.shape[-1] >= 32, 'CoAtNet needs images of at least 32x32 pixels; resize them.')


class Stem(nn.Module):
    """S0: 3x3 convolutions, the first with stride 2, with batch norm and activation between them.

    Args:
        cfg: `stem_width` gives the number and the widths of the convolutions; `stem_norm_last` adds norm and
            activation at the end.
        in_chans: Channels of the image.
    """

    def __init__(self, cfg: CoAtNetCfg, in_chans: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        act_layer = get_act_layer(cfg.conv_act)
        # Modules are named conv1, norm1, conv2, ... as in timm's MaxxVit.
        for i, width in enumerate(cfg.stem_width, start=1):
            conv = nn.Conv2d(in_chans, width, 3, stride=2 if i == 1 else 1, padding=1, bias=cfg.stem_bias, **dd)
            self.add_module(f'conv{i}', conv)
            if i < len(cfg.stem_width) or cfg.stem_norm_last:
                norm = BatchNormAct2d(width, eps=cfg.conv_norm_eps, act_layer=act_layer, **dd)
                self.add_module(f'norm{i}', norm)
            in_chans = width
        self.stride = 2
        initial_weights(cfg).conv(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, stem_width[-1], ceil(H/2), ceil(W/2)), H and W at least 32."""
        check_images(x)
        # TorchScript compiles every condition except this one.
        if not torch.jit.is_scripting():  # noqa: SIM102
            if can_fuse(self.children(), x):
                return fused_layers(list(self.children()), x)
        for layer in self.children():
            x = layer(x)
        return x

    @torch.jit.ignore
    def reparameterize(self) -> None:
        """Fold the batch norms into the convolutions, for inference. The outputs stay the same."""
        if not is_exactly(self, Stem):
            return
        for (_, layer), (name, norm) in itertools.pairwise(list(self.named_children())):
            setattr(self, name, fold_after(layer, norm))


class PatchStem(nn.Module):
    """A stem that turns every patch of the image into one position: ViT_REL of CoAtNet paper section 2.2.

    Args:
        cfg: `patch_size` is the side of a patch, and `stem_width` the number of channels of a position.
        in_chans: Channels of the image.
    """

    def __init__(self, cfg: CoAtNetCfg, in_chans: int, device=None, dtype=None) -> None:
        super().__init__()
        self.stride = cfg.patch_size
        (width,) = cfg.stem_width
        self.conv1 = nn.Conv2d(
            in_chans, width, self.stride, stride=self.stride, bias=cfg.stem_bias, device=device, dtype=dtype
        )
        initial_weights(cfg).transformer(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, stem_width[-1], ceil(H/patch_size), ceil(W/patch_size)), H and W at least 32.

        Zeros below and on the right complete the last patches.
        """
        check_images(x)
        height, width = x.shape[-2], x.shape[-1]
        rows, cols = (height + self.stride - 1) // self.stride, (width + self.stride - 1) // self.stride
        return self.conv1(F.pad(x, (0, cols * self.stride - width, 0, rows * self.stride - height)))
