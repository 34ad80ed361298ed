"""Torch's ways to compute attention with a relative bias, in the shapes of coatnet_1 at 224 pixels."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from .core import Row, compare

HEADS = {196: 12, 49: 24}  # by number of positions, in the third and the fourth stage
_DIM_HEAD = 32
_BACKENDS = {
    'math': SDPBackend.MATH,
    'flash': SDPBackend.FLASH_ATTENTION,
    'efficient': SDPBackend.EFFICIENT_ATTENTION,
    'cudnn': SDPBackend.CUDNN_ATTENTION,
}


def candidates(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, compiled: bool
) -> dict[str, Callable[[], torch.Tensor]]:
    """Ways to compute sum_j softmax_j(q_i.k_j / sqrt(d) + bias_ij) v_j on this machine, the package's way first.

    Args:
        q: Queries, (B, heads, N, d).
        k: Keys, (B, heads, N, d).
        v: Values, (B, heads, N, d).
        bias: (1, heads, N, N).
        compiled: Whether to include FlexAttention, which must be compiled.
    """

    def sdpa() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    calls = {'SDPA, as it chooses': sdpa}
    for name, backend in _BACKENDS.items():

        def call(backend: SDPBackend = backend) -> torch.Tensor:
            with sdpa_kernel(backend):
                return sdpa()

        try:
            call()
        except RuntimeError:  # no such kernel for this device, precision or bias
            continue
        calls[f'SDPA, {name}'] = call
    if compiled:
        flex = torch.compile(flex_attention)

        def add_bias(
            score: torch.Tensor, _: torch.Tensor, head: torch.Tensor, i: torch.Tensor, j: torch.Tensor
        ) -> torch.Tensor:
            return score + bias[0, head, i, j]

        calls['FlexAttention'] = lambda: flex(q, k, v, score_mod=add_bias)
    return calls


@torch.inference_mode()
def attention(device: str, batches: list[int], rounds: int, compiled: bool = True) -> list[Row]:
    """Time all ways, in bfloat16 on GPUs and in float32 on CPUs."""
    dtype, tolerance = (torch.bfloat16, 0.02) if device == 'cuda' else (torch.float32, 1e-4)
    rows = []
    for batch in batches:
        for positions, heads in HEADS.items():
            torch._dynamo.reset()
            # The layout of the network's projection: (B, N, heads, q|k|v, d).
            qkv = torch.randn(batch, positions, heads, 3 * _DIM_HEAD, device=device, dtype=dtype)
            q, k, v = qkv.transpose(1, 2).chunk(3, dim=-1)
            bias = torch.randn(1, heads, positions, positions, device=device, dtype=dtype)
            calls = candidates(q, k, v, bias, compiled)
            setting = f'batch {batch}, {positions} positions'
            rows += compare('attention', setting, calls, rounds, dict.fromkeys(calls, tolerance))
    return rows
