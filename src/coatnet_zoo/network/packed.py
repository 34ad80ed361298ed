"""Layers for inference on CPUs whose weights are packed once, in the layout that oneDNN chooses.

oneDNN otherwise packs the weights anew in every call, which takes longer the fewer images there are.
"""

from typing import Any

import torch
from torch import nn


class _Packed:
    """The common part of packed layers: copying and pickling, which packed tensors do not support."""

    def _pack(self, weight: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, 'weight': self.weight.to_dense()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.weight = self._pack(self.weight)


class PackedConv2d(_Packed, nn.Conv2d):
    """A convolution with packed weights; see `pack_layer`."""

    @property
    def _geometry(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]:
        return self.padding, self.stride, self.dilation, self.groups

    def _pack(self, weight: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._reorder_convolution_weight(weight, *self._geometry)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C_out, H_out, W_out), channels last."""
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self._geometry, 'none', [], '')


class PackedLinear(_Packed, nn.Linear):
    """A linear layer with packed weights; see `pack_layer`."""

    def _pack(self, weight: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., C_out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, 'none', [], '')


def pack_layer(layer: nn.Conv2d | nn.Linear) -> None:
    """Pack the weights of a layer in place. The layer keeps its place in the model and cannot be trained.

    Args:
        layer: Exactly a convolution or a linear layer. Convolutions pad with zeros, by a number of positions.
    """
    weight = layer._parameters.pop('weight').detach()
    layer.__class__ = PackedConv2d if isinstance(layer, nn.Conv2d) else PackedLinear
    layer.weight = layer._pack(weight)
