"""A network with the names and shapes of chinhsuanwu/coatnet-pytorch, written anew, and changed as forks change it.

Nothing of a fork shows in the tensors; see `tests/convert/test_compare.py`.
"""

from collections.abc import Callable

import torch
from timm.layers import gen_relative_position_index
from torch import nn


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, hidden: int, act: type[nn.Module]) -> None:
        super().__init__()
        layers = (nn.Linear(width, hidden, bias=False), act(), nn.Linear(hidden, width, bias=False), nn.Sigmoid())
        self.fc = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class PreNorm(nn.Module):
    def __init__(self, norm: nn.Module, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = norm, fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fn(self.norm(x))


class ConvBlock(nn.Module):
    def __init__(self, dim: int, out: int, down: bool, fork: 'Fork') -> None:
        super().__init__()
        first, second = ((1, 2) if fork.stride_in_depthwise else (2, 1)) if down else (1, 1)
        if down:
            self.pool, self.proj = fork.pool(3, 2, 1), nn.Conv2d(dim, out, 1, bias=False)
        mid = dim * 4
        layers = nn.Sequential(
            nn.Conv2d(dim, mid, 1, first, bias=False), nn.BatchNorm2d(mid, eps=fork.eps), fork.act(),
            nn.Conv2d(mid, mid, 3, second, 1, groups=mid, bias=False), nn.BatchNorm2d(mid, eps=fork.eps), fork.act(),
            SqueezeExcite(mid, dim // 4, fork.se_act), nn.Conv2d(mid, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.conv = PreNorm(nn.BatchNorm2d(dim), layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.proj(self.pool(x)) if hasattr(self, 'proj') else x) + self.conv(x)


class SelfAttention(nn.Module):
    def __init__(self, dim: int, out: int, grid: tuple[int, int], fork: 'Fork') -> None:
        super().__init__()
        self.scale = (dim if fork.scale_from_width else 8) ** -0.5
        self.relative_bias_table = nn.Parameter(torch.randn((2 * grid[0] - 1) * (2 * grid[1] - 1), 4))
        self.register_buffer('relative_index', fork.index(grid).reshape(-1, 1))
        self.to_qkv = nn.Linear(dim, 3 * 4 * 8, bias=False)
        self.to_out = nn.Sequential(nn.Linear(4 * 8, out), nn.Dropout())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(2, (4, 8)).transpose(1, 2) for t in self.to_qkv(x).chunk(3, 2))
        bias = self.relative_bias_table[self.relative_index[:, 0]].T.unflatten(1, (x.shape[1], x.shape[1]))
        x = (q @ k.transpose(2, 3) * self.scale + bias).softmax(3) @ v
        return self.to_out(x.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, dim: int, inner: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, inner), act(), nn.Dropout(), nn.Linear(inner, dim), nn.Dropout())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class AttentionBlock(nn.Module):
    def __init__(self, dim: int, out: int, down: bool, grid: tuple[int, int], fork: 'Fork') -> None:
        super().__init__()
        if down:
            self.pool, self.proj = fork.pool(3, 2, 1), nn.Conv2d(dim, out, 1, bias=False)
        attn = PreNorm(nn.LayerNorm(dim, eps=fork.ln_eps), SelfAttention(dim, out, grid, fork))
        feed = PreNorm(nn.LayerNorm(out, eps=fork.ln_eps), FeedForward(out, dim * 4, fork.act))
        # The original has parts that only change the shape at places 0 and 2.
        self.attn = nn.Sequential(nn.Identity(), attn, nn.Identity())
        self.ff = nn.Sequential(nn.Identity(), feed, nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.pool(x) if hasattr(self, 'proj') else x
        size = y.shape[2:]
        y = self.attn(y.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, size)
        x = (self.proj(self.pool(x)) if hasattr(self, 'proj') else x) + y
        return x + self.ff(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, size)


class Fork(nn.Module):
    """The network. The arguments are what forks change; by default, nothing."""

    def __init__(
        self, act: type[nn.Module] = nn.GELU, se_act: type[nn.Module] = nn.GELU, pool: type[nn.Module] = nn.MaxPool2d,
        eps: float = 1e-5, ln_eps: float = 1e-5, stride_in_depthwise: bool = False, scale_from_width: bool = False,
        before: Callable[[torch.Tensor], torch.Tensor] | None = None,
        after: Callable[[torch.Tensor], torch.Tensor] | None = None,
        index: Callable[[tuple[int, int]], torch.Tensor] = gen_relative_position_index, third_stage: str = 'T',
        size: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        self.act, self.se_act, self.pool, self.eps, self.ln_eps = act, se_act, pool, eps, ln_eps
        self.stride_in_depthwise, self.scale_from_width = stride_in_depthwise, scale_from_width
        self.before, self.after, self.index = before, after, index
        stem = [(3, 8, 2), (8, 8, 1)]
        self.s0 = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), act()) for i, o, s in stem)
        )
        self.s1 = nn.Sequential(ConvBlock(8, 12, True, self), ConvBlock(12, 12, False, self))
        self.s2 = nn.Sequential(ConvBlock(12, 16, True, self))
        grids = [(size // 16, size // 16), (size // 32, size // 32)]
        first, *more = (
            AttentionBlock(16 if i == 0 else 24, 24, i == 0, grids[0], self)
            if kind == 'T'
            else ConvBlock(16 if i == 0 else 24, 24, i == 0, self)
            for i, kind in enumerate(third_stage)
        )
        self.s3 = nn.Sequential(first, *more)
        self.s4 = nn.Sequential(
            AttentionBlock(24, 32, True, grids[1], self), AttentionBlock(32, 32, False, grids[1], self)
        )
        self.fc = nn.Linear(32, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(x) if self.before else x
        x = self.fc(self.s4(self.s3(self.s2(self.s1(self.s0(x))))).mean((2, 3)))
        return self.after(x) if self.after else x
