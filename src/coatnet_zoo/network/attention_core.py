"""The cores of self-attention: everything between the projections. A core has no parameters, so any core fits a block.

A core maps queries, keys and values, and the bias of all pairs of positions, to the sums of values. Three forms define
what is summed: `SoftmaxAttention`, `PostBiasAttention` and `LinearAttention`. Two cores define which positions are
summed: `GlobalCore`, and `WindowCore` of windows.py. `create_core(cfg)` puts a form into a core. docs/design-space.md
has the formulas.
"""

import torch
import torch.nn.functional as F
from timm.layers import use_fused_attn
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..registry import CoAtNetCfg
from .transforms import is_transformed
from .windows import WindowCore


def split_heads(qkv: torch.Tensor, num_heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B, N, heads * 3 * d), ordered (head, q|k|v, d), -> queries, keys and values, each (B, heads, N, d)."""
    batch, positions, dim = qkv.shape
    qkv = qkv.reshape(batch, positions, num_heads, dim // num_heads).transpose(1, 2)
    q, k, v = qkv.chunk(3, dim=-1)
    return q, k, v


@torch.fx.wrap
def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """(B, heads, N, d) -> (B, N, heads * d)."""
    x = x.transpose(1, 2)
    # TorchScript compiles every condition except this one.
    if not torch.jit.is_scripting():  # noqa: SIM102
        # ONNX decomposes attention whose bias needs gradients. The output then has other strides than the graph was
        # made with.
        if torch.compiler.is_exporting():
            x = x.clone(memory_format=torch.contiguous_format)
    return x.flatten(2)


def weighted_sum(weights: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """sum_j weights_ij v_j, with the same weights for every image and every window.

    Args:
        weights: (1, heads, N, N).
        v: (B, windows * heads, N, d).

    Returns:
        (B, windows * heads, N, d).
    """
    batch, groups, positions, dim = v.shape
    heads = weights.shape[1]
    # A broadcast matmul would copy the weights for every image; images and windows become columns instead.
    copies = batch * (groups // heads)
    columns = v.reshape(copies, heads, positions, dim).permute(1, 2, 0, 3).flatten(2)
    sums = torch.bmm(weights.squeeze(0).to(v.dtype), columns)
    return sums.reshape(heads, positions, copies, dim).permute(2, 0, 1, 3).reshape(batch, groups, positions, dim)


@torch.fx.wrap
def linear_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """y_i = sum_j f(q_i).f(k_j) v_j / sum_j f(q_i).f(k_j) with f = elu + 1 (arXiv 2006.16236), at linear cost.

    Args:
        q: Queries, (B, heads, N, d).
        k: Keys, (B, heads, N, d).
        v: Values, (B, heads, N, d).

    Returns:
        (B, heads, N, d), in the precision of the values.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    q = F.elu(q.to(dtype)) + 1
    k = F.elu(k.to(dtype)) + 1
    # Sums over thousands of positions overflow float16. So the keys of each feature are divided by their sum, and the
    # query is multiplied by that sum: both products below are then weighted averages of values.
    total = k.sum(dim=-2, keepdim=True)
    k = k / total.clamp(min=1e-30)
    q = q * total
    q = q / q.sum(dim=-1, keepdim=True).clamp(min=1e-30)
    return q.to(v.dtype) @ (k.to(v.dtype).transpose(-2, -1) @ v)


@torch.fx.wrap
def fused_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, dropout: float
) -> torch.Tensor:
    """`scaled_dot_product_attention`, also inside the transforms of torch.

    Args:
        q: Queries, (B, heads, N, d).
        k: Keys, (B, heads, N, d).
        v: Values, (B, heads, N, d).
        mask: Added to the logits, (1 or B, heads, N, N), or None.
        dropout: Share of the weights that is dropped.

    Returns:
        (B, heads, N, d).
    """
    # TorchScript compiles every condition except this one.
    if not torch.jit.is_scripting():  # noqa: SIM102
        # In transforms, torch chooses kernels that cannot be differentiated.
        if not torch.compiler.is_compiling() and is_transformed(q):
            with sdpa_kernel(SDPBackend.MATH):
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


class SoftmaxAttention(nn.Module):
    """y_i = sum_j softmax_j(q_i.k_j / sqrt(d) + w_{i-j}) v_j, the form that CoAtNet paper section 2.1 chooses.

    After `timm.layers.set_fused_attn(False)`, the weights are computed step by step, so that hooks can read them.

    Args:
        attn_drop: Dropout of the weights that the softmax gives.
    """

    def __init__(self, attn_drop: float = 0.0) -> None:
        super().__init__()
        self.fused_attn = bool(use_fused_attn())
        self.attn_drop = nn.Dropout(attn_drop)

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, padding: torch.Tensor | None
    ) -> torch.Tensor:
        """Compute the sum of values for every position.

        Args:
            q: Queries, (B, windows * heads, N, d).
            k: Keys, (B, windows * heads, N, d).
            v: Values, (B, windows * heads, N, d); zeros outside the feature map.
            bias: w, (1, heads, N, N), or None.
            padding: (windows, 1, 1, N), minus infinity outside the feature map; None if every window is inside the map.

        Returns:
            (B, windows * heads, N, d).
        """
        mask = None if bias is None else bias.to(q.dtype)
        if padding is not None:
            heads = q.shape[1] // padding.shape[0]
            by_window = padding.expand(-1, heads, -1, -1) if mask is None else mask + padding
            mask = by_window.flatten(0, 1).unsqueeze(0)
        if self.fused_attn:
            return fused_attention(q, k, v, mask, self.attn_drop.p if self.training else 0.0)
        weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if mask is not None:
            weights = weights + mask
        return self.attn_drop(weights.softmax(dim=-1)) @ v


class PostBiasAttention(nn.Module):
    """y_i = sum_j (softmax_j(q_i.k_j / sqrt(d)) + w_{i-j}) v_j, the other form of CoAtNet paper section 2.1.

    The two terms are summed separately, so the weights of the softmax need not be kept.

    Args:
        attn_drop: Dropout of the weights that the softmax gives.
    """

    def __init__(self, attn_drop: float = 0.0) -> None:
        super().__init__()
        self.attn = SoftmaxAttention(attn_drop)

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, padding: torch.Tensor | None
    ) -> torch.Tensor:
        """See `SoftmaxAttention.forward`; the bias is not None."""
        assert bias is not None
        by_position = weighted_sum(bias, v)
        return self.attn(q, k, v, None, padding) + by_position


class LinearAttention(nn.Module):
    """Attention without positions and without a softmax, at a cost that grows with the number of positions.

    See `linear_attention`.
    """

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, padding: torch.Tensor | None
    ) -> torch.Tensor:
        """See `SoftmaxAttention.forward`; the bias and the padding are None."""
        return linear_attention(q, k, v)


class GlobalCore(nn.Module):
    """Attention over the whole feature map.

    Args:
        num_heads: Attention heads.
        attn: The form, which defines what is summed: (q, k, v, bias, padding) -> (B, heads, N, d).
    """

    def __init__(self, num_heads: int, attn: nn.Module) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn = attn

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The grid of positions that needs a bias, (height, width): the whole feature map."""
        return height, width

    def forward(self, qkv: torch.Tensor, bias: torch.Tensor | None, height: int, width: int) -> torch.Tensor:
        """Compute everything between the projections.

        Args:
            qkv: (B, N, heads * 3 * d), ordered (head, q|k|v, d), of N = height * width positions.
            bias: The bias of all pairs of positions, (1, heads, N, N), or None.
            height: Rows of the feature map.
            width: Columns of the feature map.

        Returns:
            (B, N, heads * d).
        """
        q, k, v = split_heads(qkv, self.num_heads)
        return merge_heads(self.attn(q, k, v, bias, None))


def create_core(cfg: CoAtNetCfg, num_heads: int, attn_drop: float = 0.0) -> nn.Module:
    """Create the attention core of a configuration.

    Args:
        cfg: Flavour of the block.
        num_heads: Attention heads.
        attn_drop: Dropout of attention weights.

    Raises:
        ValueError: If `attn_drop` is not 0 and attention is linear, which has no weights to drop.
    """
    if cfg.attn_type == 'linear' and attn_drop:
        raise ValueError(
            f"attn_drop_rate={attn_drop} does not work with attn_type='linear', which has no attention weights to "
            'drop; use proj_drop_rate or leave it out.'
        )
    if cfg.attn_type == 'linear':
        form: nn.Module = LinearAttention()
    else:
        form = PostBiasAttention(attn_drop) if cfg.rel_attn == 'post' else SoftmaxAttention(attn_drop)
    if cfg.attn_window is None:
        return GlobalCore(num_heads, form)
    return WindowCore(num_heads, form, cfg.attn_window)
