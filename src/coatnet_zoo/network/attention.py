"""Self-attention of Transformer blocks: projections, relative positions, and a core between the projections."""

import torch
from torch import nn

from ..registry import CoAtNetCfg
from .attention_core import GlobalCore, SoftmaxAttention, create_core, merge_heads, split_heads
from .exact import is_exactly
from .expanded import TabledRelPos
from .rel_pos import NoRelPos, RelPosBias, RelPosMlp
from .row_attention import attend_by_rows
from .transforms import is_eager_inference

# Positions of a feature map of 384 pixels, the largest published size. The bias of all pairs of larger maps takes more
# memory, and on CPUs more time, than attention row by row.
MAX_EXPANDED = 576


class Attention(nn.Module):
    """Self-attention, CoAtNet paper section 2.1.

    `core` computes everything between the projections. `rel_pos` gives the position bias for the grid of
    `core`.

    Args:
        cfg: Flavour of the block.
        dim: Input channels.
        dim_out: Output channels.
        feat_size: (height, width) of the feature map that learned position tables are built for.
        attn_drop: Dropout of attention weights.
        proj_drop: Dropout of the output.
    """

    def __init__(
        self,
        cfg: CoAtNetCfg,
        dim: int,
        dim_out: int,
        feat_size: tuple[int, int],
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.num_heads = cfg.num_heads or (dim if cfg.attn_base == 'in' else dim_out) // cfg.dim_head
        self.dim_head = cfg.dim_head
        dim_attn = self.num_heads * self.dim_head
        # Rows of qkv are ordered (head, q|k|v, dim), as in timm's MaxxVit.
        self.qkv = nn.Linear(dim, dim_attn * 3, bias=cfg.qkv_bias, **dd)
        self.core = create_core(cfg, self.num_heads, attn_drop)
        if cfg.rel_attn == 'none':
            self.rel_pos = NoRelPos()
        elif cfg.rel_pos_type == 'mlp':
            self.rel_pos = RelPosMlp(self.num_heads, cfg.rel_pos_dim, **dd)
        else:
            self.rel_pos = RelPosBias(self.core.grid(*feat_size), self.num_heads, **dd)
        self.proj = nn.Linear(dim_attn, dim_out, bias=cfg.proj_bias, **dd)
        self.proj_drop = nn.Dropout(proj_drop)

    def set_feat_size(self, feat_size: tuple[int, int]) -> None:
        """Resize the position tables for another feature map size.

        Args:
            feat_size: (height, width).
        """
        if isinstance(self.rel_pos, RelPosBias):
            self.rel_pos.set_window_size(self.core.grid(*feat_size))

    def attend(self, qkv: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Compute everything between the projections.

        Args:
            qkv: (B, N, heads * 3 * d), ordered (head, q|k|v, d), of N = height * width positions.
            height: Rows of the feature map.
            width: Columns of the feature map.

        Returns:
            (B, N, heads * d).
        """
        # TorchScript compiles every condition except this one.
        if not torch.jit.is_scripting():  # noqa: SIM102
            if is_eager_inference(qkv) and self._can_go_by_rows(height * width):
                q, k, v = split_heads(qkv, self.num_heads)
                table = self.rel_pos.table(height, width).to(q.dtype)
                return merge_heads(attend_by_rows(q, k, v, table, height, width))
        rows, cols = self.core.grid(height, width)
        return self.core(qkv, self.rel_pos(rows, cols), height, width)

    @torch.jit.ignore
    def _can_go_by_rows(self, positions: int) -> bool:
        """Whether the map is large, and rows give the same result: nothing sees or changes the parts of attention."""
        return (
            positions > MAX_EXPANDED
            and not self.training
            and is_exactly(self.core, GlobalCore)
            and is_exactly(self.core.attn, SoftmaxAttention)
            and self.core.attn.fused_attn
            and is_exactly(self.rel_pos, RelPosBias, RelPosMlp, TabledRelPos)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, dim, H, W) -> (B, dim_out, H, W)."""
        batch, _, height, width = x.shape
        x = self.attend(self.qkv(x.flatten(2).transpose(1, 2)), height, width)
        x = self.proj_drop(self.proj(x))
        return x.transpose(1, 2).reshape(batch, x.shape[2], height, width)
