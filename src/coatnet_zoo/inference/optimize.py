"""Making a trained model fast for inference without changing what it computes."""

import copy
import logging
from typing import Any

import torch
from timm.models import reparameterize_model
from torch import nn

from ..network import Attention, CoAtNet, RelPosBias, RelPosMlp, attention_sizes, is_pointwise, is_unmodified
from .microbatch import is_batch_independent
from .modules import FASTER_PARTS, InPlaceMBConv, KeptRelPos, PointwiseConv2d

_logger = logging.getLogger(__name__)


class OptimizedCoAtNet(CoAtNet):
    """A CoAtNet with folded weights. Images of any precision and memory format give logits in float32."""

    def _prepare(self, x: torch.Tensor) -> torch.Tensor:
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
            raise TypeError(f'This model takes normalised images as floating-point tensors; got {kind}.')
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise ValueError(f'This model takes images of shape (B, {self.in_chans}, H, W), got {tuple(x.shape)}.')
        return x.to(dtype=self.stem.conv1.weight.dtype, memory_format=torch.channels_last)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """See `CoAtNet.set_input_size`."""
        for attn, _ in attention_sizes(self):
            if isinstance(attn.rel_pos, KeptRelPos):
                attn.rel_pos = attn.rel_pos.rel_pos
        try:
            super().set_input_size(img_size)
        finally:
            _keep_positions(self)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """See `CoAtNet.forward_features`."""
        return super().forward_features(self._prepare(x))

    def forward_intermediates(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """See `CoAtNet.forward_intermediates`."""
        return super().forward_intermediates(self._prepare(x), *args, **kwargs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, num_classes), in float32."""
        return super().forward(x).float()


@torch.inference_mode(False)  # its tensors could neither be loaded nor have gradients of images
def optimize_for_inference(model: CoAtNet, dtype: torch.dtype | None = None, compile: bool = False) -> OptimizedCoAtNet:
    """A copy of a model that computes the same logits faster.

    Batch norms and layer scales are folded into the layers next to them, and tensors are stored with channels last. On
    CPUs, batches are computed a few images at a time. Relative positions of the `img_size` of the model are computed
    once; other sizes work as before. Modules with hooks, and modules that are not exactly of a class of this package,
    timm or torch, do not change.

    Args:
        model: A CoAtNet, on any device.
        dtype: Precision of the weights and of the computation, e.g. `torch.bfloat16`. Default: the precision of the
            model. Logits are always float32, and images may be float32.
        compile: Compile calls of the model with `torch.compile`. The first call takes about a minute. On CPUs this is
            rarely worth it; exported models are faster, see `export_model`.

    Returns:
        A CoAtNet in evaluation mode, without gradients of its weights: images (B, in_chans, H, W) ->
        (B, num_classes). Its state dict has the folded weights, and fits no other model. Copies are not compiled.

    Raises:
        TypeError: If the model is not a CoAtNet, wraps a CoAtNet, or is optimised already.
        ValueError: If the model has a module that cannot be copied, or weights on several devices or in several
            precisions.
    """
    _check(model)
    weight = next(model.parameters())
    _logger.info('Folding the norms of a model with %d parameters.', sum(p.numel() for p in model.parameters()))
    fast = copy.deepcopy(model).eval().to(torch.promote_types(weight.dtype, torch.float32))
    _separate(fast)
    fast = reparameterize_model(fast, inplace=True)
    _keep_positions(fast)
    if weight.device.type == 'cpu':
        _replace_modules(fast)
    fast.__class__ = OptimizedCoAtNet
    fast.eval().requires_grad_(False).to(dtype=dtype or weight.dtype, memory_format=torch.channels_last)
    if compile:
        fast.compile()
    return fast


def _separate(model: nn.Module) -> None:
    """Give every place of a model a separate module, because each layer is folded with the modules next to it."""
    seen: set[nn.Module] = set()
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if module in seen:
            model.set_submodule(path, copy.deepcopy(module))
        seen.add(module)


def _keep_positions(model: CoAtNet) -> None:
    """Compute the positions of the native size once."""
    budget = sum(p.nbytes for p in model.parameters()) // 10
    for attn, size in attention_sizes(model):
        is_plain = is_unmodified(attn, Attention) and type(attn.rel_pos) in (RelPosBias, RelPosMlp)
        if is_plain and is_batch_independent(attn.rel_pos):
            attn.rel_pos = KeptRelPos(attn.rel_pos, *attn.core.grid(*size), budget)
            budget -= attn.rel_pos.bias.nbytes if attn.rel_pos.bias.ndim == 3 else 0


def _replace_modules(model: CoAtNet) -> None:
    """Give modules faster classes, if nothing else changes or sees what they compute."""
    for part in [part for part in model.modules() if type(part) in FASTER_PARTS and is_batch_independent(part)]:
        part.__class__ = FASTER_PARTS[type(part)]
        if isinstance(part, InPlaceMBConv):
            part.prepare()
    for layer in model.modules():
        if type(layer) is nn.Conv2d and is_pointwise(layer) and layer.stride == (1, 1):
            layer.__class__ = PointwiseConv2d


def _check(model: nn.Module) -> None:
    """Check that a module is a CoAtNet itself whose weights can be copied and folded; see `optimize_for_inference`."""
    if isinstance(model, OptimizedCoAtNet):
        raise TypeError('This model is already optimised; optimise the model that it was made from.')
    if type(model) is not CoAtNet:
        inside = next((name for name, m in model.named_modules() if name and type(m) is CoAtNet), None)
        hint = '' if inside is None else f'; pass the one inside it, model.{inside}'
        raise TypeError(f'optimize_for_inference needs a CoAtNet, not {type(model).__name__}{hint}.')
    if not isinstance(model.stages, nn.Sequential):
        kind = type(model.stages).__name__
        raise ValueError(f"optimize_for_inference needs stages in a Sequential, but the module 'stages' is a {kind}.")
    for name, module in model.named_modules():
        if 'forward' in vars(module):
            raise ValueError(
                f'optimize_for_inference cannot copy the module {name!r}, whose forward was replaced; make that a '
                'subclass, or pass the model as it was before.'
            )
        for attribute, value in vars(module).items():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                raise ValueError(
                    f'optimize_for_inference cannot copy the module {name!r}, whose {attribute} is computed from other '
                    'tensors; make that permanent first, e.g. with torch.nn.utils.remove_weight_norm or prune.remove.'
                )
    found = sorted({f'{p.dtype} on {p.device}' for p in model.parameters() if p.is_floating_point()})
    if len(found) > 1 or found[0].endswith('meta'):
        raise ValueError(
            'optimize_for_inference needs all weights in one precision and on one real device, not '
            f'{", ".join(found)}; load the weights, or call model.to(...) first.'
        )
