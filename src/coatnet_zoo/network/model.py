"""The CoAtNet: stem, stages of MBConv or Transformer blocks, head, and the methods that timm expects.

Read `CoAtNet.forward` and `Stage.forward` here, then blocks.py, attention.py and rel_pos.py.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from timm.layers import ClassifierHead, NormMlpClassifierHead, calculate_drop_path_rates, get_device_dtype, to_2tuple
from timm.models import checkpoint_seq
from torch import nn

from .._timm import feature_take_indices, set_fixed_input_size, update_model_input_size
from ..convert import Adapted, adapt_state_dict, take_timms_layers
from ..registry import CoAtNetCfg, Side, check, check_window, feature_sizes
from .attention import Attention
from .blocks import MBConv, PatchStem, Stem, TransformerBlock, get_norm_2d
from .init import initial_weights
from .layers import join_phases, split_phases
from .rel_pos import RelPosBias


class Stage(nn.Module):
    """A stage: the first block halves the resolution (except after a stem that patchifies), the others keep it.

    With `cfg.output_stride`, late stages keep the resolution: see `layers.split_phases`.

    Arguments are those of `TransformerBlock`, the `index` of the stage in `cfg`, and one `drop_path` for each block.
    """

    def __init__(
        self, cfg: CoAtNetCfg, index: int, dim: int, feat_size: tuple[int, int], drop_path: list[float],
        attn_drop: float = 0.0, proj_drop: float = 0.0, device=None, dtype=None,
    ) -> None:  # fmt: skip
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.grad_checkpointing = False
        self.phases = cfg.phases(index)
        blocks: list[nn.Module] = []
        for i, (kind, width) in enumerate(zip(cfg.stage_types[index], cfg.stage_widths[index], strict=True)):
            args = (cfg, dim, width, cfg.stage_stride if i == 0 else 1)
            if kind == 'C':
                blocks.append(MBConv(*args, drop_path[i], **dd))
            else:
                blocks.append(TransformerBlock(*args, feat_size, drop_path[i], attn_drop, proj_drop, **dd))
            dim = width
        self.blocks = nn.Sequential(*blocks)
        # Inside another module, the `load_state_dict` of that module runs instead of `CoAtNet`'s.
        self.register_load_state_dict_pre_hook(partial(take_timms_layers, cfg))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, dim, H, W) -> (B, width of the last block, ceil(H/stride), ceil(W/stride)), stride 2 or 1."""
        height, width = x.shape[-2], x.shape[-1]
        if self.phases > 1:
            x = split_phases(x, self.phases)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.blocks, x)
        else:
            x = self.blocks(x)
        return join_phases(x, self.phases, height, width) if self.phases > 1 else x


class CoAtNet(nn.Module):
    """CoAtNet (arXiv 2106.04803) in the flavour of its configuration.

    `timm.create_model('coatnet_1', impl=...)` makes a CoAtNet and records the arguments that rebuild the model.

    Args:
        cfg: Structure and flavour.
        img_size: Native height and width in pixels, or one number for both. Learned position tables have this size.
            Images of any other size from 32 pixels up work as well; tables are then resized in every call.
        in_chans: Channels of the image.
        num_classes: Number of classes; 0 for no classifier.
        global_pool: timm's global pooling type; '' for no pooling.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth rate of the last block; the rate grows linearly from 0, stage by stage.
        attn_drop_rate: Dropout of attention weights.
        proj_drop_rate: Dropout in Transformer blocks.

    Raises:
        ValueError: If `img_size` is below 32 or above 8192 pixels, or if `cfg.attn_window` is too large to have an
            effect at `img_size`; for `attn_drop_rate`, see `Attention`.
    """

    def __init__(
        self, cfg: CoAtNetCfg, img_size: int | tuple[int, int] = 224, in_chans: int = 3, num_classes: int = 1000,
        global_pool: str = 'avg', drop_rate: float = 0.0, drop_path_rate: float = 0.0, attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0, device=None, dtype=None,
    ) -> None:  # fmt: skip
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.cfg = cfg
        self.img_size = to_2tuple(img_size)
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.global_pool = global_pool
        self.drop_rate = drop_rate

        self.stem = (Stem if cfg.patch_size is None else PatchStem)(cfg, in_chans, **dd)
        dim = cfg.stem_width[-1]
        reduction = self.stem.stride
        self.feature_info = [dict(num_chs=dim, reduction=reduction, module='stem')]
        feat_sizes = self._feature_sizes(self.img_size)
        stages: list[nn.Module] = []
        drop_path = calculate_drop_path_rates(drop_path_rate, list(cfg.depths), stagewise=True)
        for i, widths in enumerate(cfg.stage_widths):
            stages.append(Stage(cfg, i, dim, feat_sizes[i], drop_path[i], attn_drop_rate, proj_drop_rate, **dd))
            dim = widths[-1]
            reduction *= cfg.stage_stride
            kept = reduction // cfg.phases(i)
            self.feature_info.append(dict(num_chs=dim, reduction=kept, module=f'stages.{i}'))
        self.stages = nn.Sequential(*stages)

        self.num_features = self.embed_dim = dim
        norm = get_norm_2d(cfg)
        if cfg.head_hidden:
            self.norm = nn.Identity()
            self.head = NormMlpClassifierHead(dim, num_classes, dim, global_pool, drop_rate, norm_layer=norm, **dd)
        else:
            self.norm = norm(dim, **dd) if cfg.final_norm else nn.Identity()
            self.head = ClassifierHead(dim, num_classes, global_pool, drop_rate, **dd)
        self._finish_head(self.head)

    def _finish_head(self, new: nn.Module) -> None:
        """Initialise the new part of the head, and drop the classifier's bias where the implementation has none."""
        if not self.cfg.head_bias and isinstance(self.head.fc, nn.Linear):
            self.head.fc.register_parameter('bias', None)
        self.head_hidden_size = self.head.num_features
        initial_weights(self.cfg).head(new)

    def _feature_sizes(self, img_size: tuple[int, int]) -> list[tuple[int, int]]:
        """Compute (height, width) after every stage. Raise a ValueError for a bad size, or a window without effect."""
        check('img_size', img_size, tuple[Side, Side])
        check_window(self.cfg, img_size)
        return feature_sizes(img_size, len(self.cfg.depths), self.cfg.patch_size)

    def init_weights(self) -> None:
        """Initialise parameters and statistics again: for models made on the meta device, after `to_empty`."""
        for module in self.modules():
            if hasattr(module, 'reset_parameters'):
                module.reset_parameters()
        initial = initial_weights(self.cfg)
        for module in self.modules():
            if isinstance(module, (Stem, MBConv)):
                initial.conv(module)
            elif isinstance(module, (PatchStem, TransformerBlock)):
                initial.transformer(module)
        initial.head(self.head)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a checkpoint of this package, of timm's CoAtNets or of third-party code that can be converted.

        Names and layouts are mapped, and position tables are resized to the `img_size` of this model. A model on the
        meta device takes the tensors in its precision, without a copy where they have it.

        Raises:
            CheckpointError: If the checkpoint is of another implementation, with the call that loads it; or if it has
                values that no model has (not finite, negative variances).
            RuntimeError: If tensors are missing, left over or of the wrong shape.
        """
        if strict and not isinstance(state_dict, Adapted):
            state_dict = adapt_state_dict(state_dict, self)
        if next(self.parameters()).is_meta:
            assign = True
            own = self.state_dict()
            state_dict = {k: v.to(own[k].dtype) if k in own else v for k, v in state_dict.items()}
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of the relative position parameters, which optimisers should not decay."""
        return {k for k, _ in self.named_parameters() if 'rel_pos.' in k}

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Change the native input size, and resize the learned position tables permanently.

        Tables of another size become new parameters. So make optimisers, DistributedDataParallel and FSDP afterwards,
        or recreate them.

        Args:
            img_size: Height and width in pixels, or one number for both.

        Raises:
            ValueError: If the size is below 32 or above 8192 pixels, or if `cfg.attn_window` is too large to have an
                effect at this size.
        """
        self._feature_sizes(to_2tuple(img_size))  # raises before anything changes
        self.img_size = to_2tuple(img_size)
        for attn, size in attention_sizes(self):
            if isinstance(attn.rel_pos, RelPosBias):
                attn.rel_pos.set_window_size(attn.core.grid(*size))
        update_model_input_size(self, self.img_size)
        set_fixed_input_size(self, True)  # images are prepared for this size

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that group parameters by depth, for timm's layer decay: the stem, then the stages.

        The groups are those of timm's CoAtNets, so that a `layer_decay` has the same effect; `coarse` changes nothing.
        """
        return dict(stem=r'^stem', blocks=[(r'^stages\.(\d+)', None), (r'^norm', (99999,))])

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in the backward pass instead of keeping them."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, reset_other: bool = False) -> None:
        """Replace the classifier by a new one, or by none for `num_classes=0`.

        Args:
            num_classes: Number of classes.
            global_pool: New global pooling type; None keeps the present type.
            reset_other: Also drop the norm and the hidden layer of the head (in `impl='paper'`).
        """
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        dd = get_device_dtype(self)
        self.head.reset(num_classes, global_pool, reset_other=reset_other, in_features=self.num_features, **dd)
        self._finish_head(self.get_classifier())

    def forward_intermediates(
        self, x: torch.Tensor, indices: int | list[int] | None = None, norm: bool = False, stop_early: bool = False,
        output_fmt: str = 'NCHW', intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:  # fmt: skip
        """Compute the features, and the outputs of the stem (index 0) and of the stages (1 to 4), each NCHW.

        Args:
            x: Images, (B, in_chans, H, W).
            indices: Which outputs: a number n for the last n, a list of indices, or None for all.
            norm: Apply the final norm to the output of the last stage.
            stop_early: Compute no stage after the last stage of `indices`.
            output_fmt: 'NCHW', the only format.
            intermediates_only: Return only the list of intermediates.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f"output_fmt={output_fmt!r} is not supported; the features of CoAtNet are 'NCHW'.")
        last = len(self.stages)
        take_indices, max_index = feature_take_indices(last + 1, indices)
        parts = [self.stem, *self.stages]
        intermediates = []
        for i, part in enumerate(parts[: max_index + 1] if stop_early else parts):
            x = part(x)
            if i in take_indices:
                intermediates.append(self.norm(x) if norm and i == last else x)
        if intermediates_only:
            return intermediates
        return self.norm(x) if i == last else x, intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages that `forward_intermediates(indices=...)` does not need; optionally also the norm and head.

        Returns:
            The indices of the intermediates that stay.
        """
        take_indices, max_index = feature_take_indices(len(self.stages) + 1, indices)
        shortened = max_index < len(self.stages)
        self.stages = self.stages[:max_index]
        if prune_norm or shortened:
            self.norm = nn.Identity()
        if shortened:
            self.num_features = self.feature_info[max_index]['num_chs']
        if prune_head or shortened:
            self.reset_classifier(0, '', reset_other=True)
        return take_indices

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, num_features, ceil(H/r), ceil(W/r)), r the last reduction in `feature_info`.

        Raises:
            AssertionError: If H or W is below 32, or if the images have integer values.
        """
        return self.norm(self.stages(self.stem(x)))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(B, num_features, H', W') -> (B, num_classes), or (B, num_features) with `pre_logits`."""
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)  # a head of a user takes `x` alone

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(x))


def attention_sizes(model: CoAtNet) -> Iterator[tuple[Attention, tuple[int, int]]]:
    """Every attention of a model, with (height, width) of its feature map at the `img_size` of the model."""
    sizes = feature_sizes(model.img_size, len(model.stages), model.cfg.patch_size)  # stages may have been pruned
    for stage, size in zip(model.stages, sizes, strict=True):
        for module in stage.modules():
            if isinstance(module, Attention):
                yield module, size
