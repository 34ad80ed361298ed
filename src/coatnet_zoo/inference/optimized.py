"""The model that `optimize_for_inference` makes. The model gives logits and features, and refuses all other calls."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import nn
from typing_extensions import Self

from ..network import CoAtNet, is_transformed, is_unchanged
from .crowded import ThreadChoice
from .streams import fills_threads, is_possible, on_one_thread, on_streams


def _refuse(what: str) -> NoReturn:
    raise RuntimeError(
        f'A model from optimize_for_inference {what}; do that with the original model, then optimise the original '
        'model again.'
    )


class OptimizedCoAtNet(CoAtNet):
    """A CoAtNet with constant weights, in evaluation mode, for one device and one precision.

    Calls that would change the weights, or that need gradients or all weights, raise a RuntimeError.
    """

    dtype: torch.dtype
    device: torch.device
    image_shape: tuple[int, int, int] | None
    streams: bool = False  # whether threads compute parts of a batch
    thread_choice: ThreadChoice

    @classmethod
    def adopt(cls, model: CoAtNet, image_shape: tuple[int, int, int] | None) -> Self:
        """Change a CoAtNet to this class. The parts of the CoAtNet are replaced afterwards.

        Args:
            model: A CoAtNet in evaluation mode, in its final precision.
            image_shape: The required (channels, height, width) of images; None if images may have any size.
        """
        weight = next(model.parameters())
        model.__class__ = cls
        model.dtype, model.device, model.image_shape = weight.dtype, weight.device, image_shape
        model.thread_choice = ThreadChoice()
        return model

    def _check_images(self, x: torch.Tensor) -> None:
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
            raise TypeError(f'This model takes images as tensors of floating-point numbers, normalised; got {kind}.')
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise ValueError(f'This model takes images of shape (B, {self.in_chans}, H, W), got {tuple(x.shape)}.')
        if self.image_shape is not None and tuple(x.shape[1:]) != self.image_shape:
            got = tuple(x.shape[1:])
            raise ValueError(f'This model takes only images of {self.image_shape}, got {got}; resize them.')

    def _compute(self, function: Callable[..., Any], x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Call a function of a tensor in the precision of this model, without gradients."""
        if x.requires_grad and torch.is_grad_enabled():
            _refuse('gives no gradients')
        if not torch.compiler.is_compiling() and is_transformed(x):
            _refuse('gives no derivatives, and is not for torch.func')
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            _refuse('cannot be traced or exported')
        x = x.to(dtype=self.dtype, memory_format=torch.channels_last)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return function(x, *args, **kwargs)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """See `CoAtNet.forward_features`."""
        self._check_images(x)
        return self._compute(self._features, x)

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        function = super().forward_features
        parts = (self.stem, self.stages, *self.stages, self.norm)
        # Hooks expect whole batches.
        if not self.streams or not is_possible(x) or not all(is_unchanged(part) for part in parts):
            return function(x)
        if fills_threads(len(x)):
            return on_streams(function, x)
        return self.thread_choice.call(function, lambda x: on_one_thread(function, x), x)

    def forward_intermediates(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """See `CoAtNet.forward_intermediates`."""
        self._check_images(x)
        return self._compute(super().forward_intermediates, x, *args, **kwargs)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """See `CoAtNet.forward_head`."""
        return self._compute(super().forward_head, x, pre_logits=pre_logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, num_classes), in float32."""
        return super().forward(x).float()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode; training mode is refused."""
        return _refuse('cannot be trained') if mode else super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Stay without gradients; gradients are refused."""
        return _refuse('gives no gradients') if requires_grad else super().requires_grad_(False)

    def state_dict(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: a state dict has no packed weights."""
        _refuse('has no state dict')

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> NoReturn:
        """Refused: weights are packed."""
        _refuse('takes no other weights')

    def _load_from_state_dict(self, *_: Any, **__: Any) -> NoReturn:
        # torch calls this method if this model is a part of another model.
        _refuse('takes no other weights')

    def init_weights(self) -> NoReturn:
        """Refused: weights are packed."""
        _refuse('takes no other weights')

    def set_input_size(self, img_size: int | tuple[int, int]) -> NoReturn:
        """Refused: position tables are expanded."""
        _refuse('keeps its native size, and takes images of other sizes as they are')

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Accept `to`, `half`, `cuda` and similar calls that change nothing; refuse the others."""
        moved = fn(torch.zeros(1, 1, 1, 1, dtype=self.dtype, device=self.device))
        if (moved.dtype, moved.device) != (self.dtype, self.device):
            _refuse(f'stays in {self.dtype} on {self.device} (the argument dtype chooses the precision)')
        return self

    def __prepare_scriptable__(self) -> NoReturn:
        _refuse('cannot be scripted')


def check_model(model: nn.Module) -> None:
    """Check that a module is a CoAtNet itself whose weights can be copied and folded.

    Raises:
        TypeError: If the module is not a CoAtNet, or wraps a CoAtNet (the message has the name of the inner one).
        ValueError: If weights are missing, on several devices or in several precisions; or if a module cannot be copied
            or has a method that an instance replaces (the message has the name of the module).
    """
    if isinstance(model, OptimizedCoAtNet):
        raise TypeError('This model is optimised already; optimise the model that it was made from.')
    if type(model) is not CoAtNet:
        inside = next((name for name, m in model.named_modules() if name and type(m) is CoAtNet), None)
        hint = '' if inside is None else f'; hand over the one inside it, model.{inside}'
        raise TypeError(f'optimize_for_inference needs a CoAtNet, not {type(model).__name__}{hint}.')
    if not isinstance(model.stages, nn.Sequential):
        kind = type(model.stages).__name__
        raise ValueError(f"optimize_for_inference needs stages in a Sequential, but the module 'stages' is a {kind}.")
    for name, module in model.named_modules():
        if 'forward' in vars(module):
            raise ValueError(
                f'optimize_for_inference cannot copy the module {name!r}, whose forward was replaced; make that a '
                'subclass, or hand over the model as it was before.'
            )
        for attribute, value in vars(module).items():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                raise ValueError(
                    f'optimize_for_inference cannot copy the module {name!r}, whose {attribute} is computed from other '
                    'tensors; make that permanent first, e.g. with torch.nn.utils.remove_weight_norm or prune.remove.'
                )
    devices = {str(p.device) for p in model.parameters()}
    if len(devices) > 1 or 'meta' in devices:
        found = ', '.join(sorted(devices))
        raise ValueError(f'optimize_for_inference needs all weights on one device that computes, not on {found}.')
    dtypes = {str(p.dtype) for p in model.parameters() if p.is_floating_point()}
    if len(dtypes) > 1:
        raise ValueError(
            f'optimize_for_inference needs all weights in one precision, not in {", ".join(sorted(dtypes))}; call '
            'model.to(...) first.'
        )
