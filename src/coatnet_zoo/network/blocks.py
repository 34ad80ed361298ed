"""The stem and the two blocks of CoAtNet, MBConv and Transformer, in the flavour of every implementation.

The flavour is data (`CoAtNetCfg`). An `nn.Identity` replaces each layer that a flavour lacks. So the `forward` of a
block has no branches, and the parameters have the same names as in timm's MaxxVit.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import (
    BatchNormAct2d,
    DropPath,
    LayerNorm2d,
    LayerScale2d,
    Mlp,
    SqueezeExcite,
    get_act_layer,
    make_divisible,
)
from torch import nn

from ..registry import CoAtNetCfg
from .attention import Attention
from .fold import fold_across_se, fold_after, fold_before, fold_layer_scale, is_unmodified
from .init import initial_weights
from .layers import Downsample, add_channels_last, create_pool


class Stem(nn.Module):
    """S0: 3x3 convolutions, the first with stride 2, with batch norm and activation between them.

    Args:
        cfg: One convolution for each of `stem_width`; norm and activation also at the end if `stem_norm_last`.
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
        for layer in self.children():
            x = layer(x)
        return x

    def reparameterize(self) -> None:
        """Fold the batch norms into the convolutions, for inference. The outputs stay the same."""
        if is_unmodified(self, Stem):
            for (_, layer), (name, norm) in itertools.pairwise(list(self.named_children())):
                setattr(self, name, fold_after(layer, norm))


class PatchStem(nn.Module):
    """A stem that turns every patch of the image into one position: ViT_REL of CoAtNet paper section 2.2."""

    def __init__(self, cfg: CoAtNetCfg, in_chans: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.stride = cfg.patch_size
        (width,) = cfg.stem_width
        self.conv1 = nn.Conv2d(in_chans, width, self.stride, stride=self.stride, bias=cfg.stem_bias, **dd)
        initial_weights(cfg).transformer(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, stem_width[-1], ceil(H/patch_size), ceil(W/patch_size)), H and W at least 32.

        Zeros below and on the right complete the last patches.
        """
        check_images(x)
        height, width = x.shape[-2], x.shape[-1]
        rows, cols = (height + self.stride - 1) // self.stride, (width + self.stride - 1) // self.stride
        return self.conv1(F.pad(x, (0, cols * self.stride - width, 0, rows * self.stride - height)))


def check_images(x: torch.Tensor) -> None:
    """Refuse images (B, C, H, W) that are too small or have integer values."""
    # An `assert` would break tracing, and tracing does not support `and`.
    torch._assert(
        x.is_floating_point(),
        'CoAtNet needs floating-point images; prepare them with '
        'timm.data.create_transform(**timm.data.resolve_model_data_config(model)).',
    )
    torch._assert(x.shape[-2] >= 32, 'CoAtNet needs images of at least 32x32 pixels; resize them.')
    torch._assert(x.shape[-1] >= 32, 'CoAtNet needs images of at least 32x32 pixels; resize them.')


class MBConv(nn.Module):
    """Pre-norm inverted bottleneck with squeeze-excite, CoAtNet paper sections 2.1 and A.1.

    x <- Shortcut(x) + Conv(DepthConv(Conv(Norm(x)))).

    Args:
        cfg: Flavour of the block.
        dim: Input channels.
        dim_out: Output channels.
        stride: 1 or 2.
        drop_path: Stochastic depth rate of the branch.
    """

    def __init__(
        self, cfg: CoAtNetCfg, dim: int, dim_out: int, stride: int, drop_path: float = 0.0, device=None, dtype=None
    ) -> None:
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        mid = int(cfg.conv_expand_ratio * (dim if cfg.conv_expand_base == 'in' else dim_out))
        se_width = cfg.se_ratio * {'in': dim, 'mid': mid, 'out': dim_out}[cfg.se_base]
        se_width = int(se_width) if cfg.se_divisor is None else make_divisible(se_width, cfg.se_divisor)

        def stride_if(where: str) -> int:
            return stride if cfg.conv_stride == where else 1

        norm_act = partial(BatchNormAct2d, eps=cfg.conv_norm_eps, act_layer=get_act_layer(cfg.conv_act), **dd)
        squeeze_excite = partial(
            SqueezeExcite, mid, rd_channels=se_width, bias=cfg.se_bias, act_layer=get_act_layer(cfg.se_act), **dd
        )

        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or dim != dim_out:
            self.shortcut = Downsample(cfg, dim, dim_out, stride, bias=cfg.conv_out_bias, **dd)
        self.pre_norm = norm_act(dim, apply_act=cfg.pre_norm_act)
        # timm's 'pool' stride uses average pooling, even where the shortcut pools in another way.
        self.down = create_pool('avg2') if stride_if('pool') == 2 else nn.Identity()
        self.conv1_1x1 = nn.Conv2d(dim, mid, 1, stride=stride_if('expand'), bias=False, **dd)
        self.norm1 = norm_act(mid)
        self.conv2_kxk = nn.Conv2d(mid, mid, 3, stride=stride_if('depthwise'), padding=1, groups=mid, bias=False, **dd)
        self.se_early = squeeze_excite() if cfg.se_early else nn.Identity()
        self.norm2 = norm_act(mid)
        self.se = nn.Identity() if cfg.se_early else squeeze_excite()
        self.conv3_1x1 = nn.Conv2d(mid, dim_out, 1, bias=cfg.conv_out_bias, **dd)
        self.norm3 = norm_act(dim_out, apply_act=False) if cfg.conv_out_norm else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        initial_weights(cfg).conv(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, dim, H, W) -> (B, dim_out, ceil(H/stride), ceil(W/stride))."""
        shortcut = self.shortcut(x)
        x = self.norm1(self.conv1_1x1(self.down(self.pre_norm(x))))
        x = self.se(self.norm2(self.se_early(self.conv2_kxk(x))))
        x = self.norm3(self.conv3_1x1(x))
        return shortcut + self.drop_path(x)

    def reparameterize(self) -> None:
        """Fold the batch norms into the convolutions, for inference. The outputs stay the same."""
        if is_unmodified(self, MBConv):
            self.pre_norm = fold_before(self.pre_norm, self.conv1_1x1, between=self.down)
            self.norm1 = fold_after(self.conv1_1x1, self.norm1)
            self.norm2 = fold_across_se(self.conv2_kxk, self.se_early, self.norm2)
            self.norm3 = fold_after(self.conv3_1x1, self.norm3)


class TransformerBlock(nn.Module):
    """Attention and a feed-forward network, both pre-norm, CoAtNet paper sections 2.2 and A.1.

    x <- Shortcut(x) + Attention(Pool(Norm(x))), then x <- x + FFN(Norm(x)).

    Args:
        cfg: Flavour of the block.
        dim: Input channels.
        dim_out: Output channels.
        stride: 1 or 2.
        feat_size: (height, width) of the block's output at the model's native input size.
        drop_path: Stochastic depth rate of both branches.
        attn_drop: Dropout of the attention weights.
        proj_drop: Dropout of the attention's output and in the feed-forward network.
    """

    def __init__(
        self, cfg: CoAtNetCfg, dim: int, dim_out: int, stride: int, feat_size: tuple[int, int], drop_path: float = 0.0,
        attn_drop: float = 0.0, proj_drop: float = 0.0, device=None, dtype=None,
    ) -> None:  # fmt: skip
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        norm_layer = get_norm_2d(cfg)
        self.norm1 = norm_layer(dim, **dd)
        if stride == 2:
            steps = [('norm', self.norm1), ('down', create_pool(cfg.pool_type))]
            self.norm1 = nn.Sequential(OrderedDict(reversed(steps) if cfg.attn_pool_first else steps))
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or dim != dim_out:
            self.shortcut = Downsample(cfg, dim, dim_out, stride, bias=cfg.attn_shortcut_bias, **dd)
        self.attn = Attention(cfg, dim, dim_out, feat_size, attn_drop, proj_drop, **dd)
        self.ls1 = LayerScale2d(dim_out, cfg.init_values, **dd) if cfg.init_values else nn.Identity()
        self.drop_path1 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

        hidden = int(cfg.mlp_ratio * (dim if cfg.mlp_base == 'in' else dim_out))
        self.norm2 = norm_layer(dim_out, **dd)
        self.mlp = Mlp(dim_out, hidden, bias=cfg.mlp_bias, drop=proj_drop, **dd)
        self.ls2 = LayerScale2d(dim_out, cfg.init_values, **dd) if cfg.init_values else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        initial_weights(cfg).transformer(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, dim, H, W) -> (B, dim_out, ceil(H/stride), ceil(W/stride))."""
        x = add_channels_last(self.shortcut(x), self.drop_path1(self.ls1(self.attn(self.norm1(x)))))
        hidden = self.mlp(self.norm2(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return add_channels_last(x, self.drop_path2(self.ls2(hidden)))

    def reparameterize(self) -> None:
        """Fold batch norms and layer scales into the linear layers, for inference. The outputs stay the same."""
        if not is_unmodified(self, TransformerBlock):
            return
        if is_unmodified(self.attn, Attention):
            if not isinstance(self.norm1, nn.Sequential):
                self.norm1 = fold_before(self.norm1, self.attn.qkv)
            elif is_unmodified(self.norm1, nn.Sequential):
                names = [name for name, _ in self.norm1.named_children()]
                if sorted(names) == ['down', 'norm']:
                    between = self.norm1.down if names[0] == 'norm' else None
                    self.norm1.norm = fold_before(self.norm1.norm, self.attn.qkv, between)
            self.ls1 = fold_layer_scale(self.attn.proj, self.ls1, between=self.attn.proj_drop)
        if is_unmodified(self.mlp, Mlp):
            self.norm2 = fold_before(self.norm2, self.mlp.fc1)
            self.ls2 = fold_layer_scale(self.mlp.fc2, self.ls2, between=self.mlp.drop2)


def get_norm_2d(cfg: CoAtNetCfg) -> Callable[..., nn.Module]:
    """The norm of Transformer blocks and at the end of the network, over the channels of (B, C, H, W)."""
    norm_layer = {'layernorm2d': LayerNorm2d, 'batchnorm2d': nn.BatchNorm2d}[cfg.norm_layer]
    return partial(norm_layer, eps=cfg.norm_eps)
