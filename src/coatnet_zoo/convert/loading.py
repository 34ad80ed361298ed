"""Fitting a checkpoint to a model: recognising names, checking that the checkpoint is the model's, resizing tables.

`CoAtNet.load_state_dict` and timm's loading of pretrained weights call `adapt_state_dict` with raw checkpoints.
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import resize_rel_pos_bias_table
from torch import nn

from ..errors import CheckpointError
from ..registry import TIMM_NAMES, CoAtNetCfg, feature_sizes, num_offsets, resolve_cfg
from .adapter import Checkpoint, third_party_codes
from .recognition import TABLE, Known, fingerprint, is_timms, square_size
from .source import Source, translate, with_own_head
from .state_dicts import find_network
from .values import Tensors, check_values

_Size = tuple[int, int] | None  # height and width of images in pixels, if known

# Fields that change what a network computes, but no name or shape of a tensor.
_UNSEEN = (
    *('conv_act', 'conv_norm_eps', 'pre_norm_act', 'conv_stride', 'se_act'),
    *('norm_eps', 'attn_pool_first', 'pool_type'),
)


class Adapted(dict[str, torch.Tensor]):
    """A state dict from `adapt_state_dict`, so that its values are not read a second time."""


def adapt_state_dict(state_dict: Mapping[str, Any] | Checkpoint, model: nn.Module, img_size: _Size = None) -> Adapted:
    """Convert a checkpoint to the names, layouts and table sizes of a model.

    Args:
        state_dict: A state dict of this package, of timm's CoAtNets or of third-party code, wrapped or not; or the
            checkpoint from `read_checkpoint`.
        model: The `CoAtNet` that the checkpoint is to be loaded into.
        img_size: Native input size of the checkpoint, if known. Default: a square, or the input size of the model
            if the tables have the same length.

    Returns:
        A state dict for `model.load_state_dict`, which reports tensors that are missing or do not fit.

    Raises:
        CheckpointError: If the checkpoint is of another implementation or size (the message has the call that loads the
            checkpoint), or if the checkpoint has values that no model has.
    """
    own = model.state_dict()
    raw = state_dict.tensors if isinstance(state_dict, Checkpoint) else state_dict
    fits = img_size in (None, model.img_size) and _has_shapes(raw, own)
    adapted = Adapted(raw if fits else _adapt(state_dict, own, model, img_size))
    check_values(adapted, own, f'The checkpoint for impl={model.cfg.impl!r}')
    return adapted


def as_linear(tensor: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
    """timm's 1x1 convolutions in Transformer blocks are linear layers here."""
    if own is not None and own.ndim == 2 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    return tensor


def take_timms_layers(cfg: CoAtNetCfg, stage: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """A hook before torch loads a stage: make linear layers of timm's, see `as_linear`. `cfg` is the network's.

    Raises:
        CheckpointError: If no network of timm computes as this one.
    """
    for name, own in stage.named_parameters(prefix.rstrip('.')):
        if (tensor := state_dict.get(name)) is not None and (linear := as_linear(tensor, own)) is not tensor:
            _check_unseen(cfg)
            state_dict[name] = linear


@functools.cache
def _check_unseen(cfg: CoAtNetCfg) -> None:
    """Refuse a checkpoint of timm's code for a network that computes what no registered network of timm does."""
    timms = [resolve_cfg(size, impl, **fields) for size, impl, fields in filter(None, TIMM_NAMES.values())]
    unseen = [name for name in _UNSEEN if all(getattr(one, name) != getattr(cfg, name) for one in timms)]
    if unlike := ', '.join(f'{name}={getattr(cfg, name)!r}' for name in unseen):
        raise CheckpointError(
            f"The checkpoint is from timm's code, but no CoAtNet of timm has {unlike} like this model of "
            f'impl={cfg.impl!r}; give the arguments of the timm model.'
        )


def _check_structure(source: Source, cfg: CoAtNetCfg) -> None:
    """Refuse the checkpoint of third-party code if its structure is not that of the configuration.

    Other numbers of classes and channels are left to torch, which reports them, and to timm, which adapts them.
    """
    impl, structure = source.arguments['impl'], source.structure
    code = third_party_codes()[impl]
    if cfg.impl == impl and not structure.differences(cfg):
        return
    size, args = structure.as_registered(impl)
    call = Known(code.title, size, impl, args=args).call
    if code.magic:  # for checkpoint_path, timm reads torch's files only
        call = call.replace('checkpoint_path=...', 'pretrained=True, pretrained_cfg_overlay=dict(file=...)')
        call = f'{call}, or convert it with `coatnet-zoo convert`'
    raise CheckpointError(
        f'The checkpoint is from {code.title} and does not fit this model of impl={cfg.impl!r}; load it with {call}.'
    )


def _has_shapes(state_dict: Mapping[str, Any], own: Tensors) -> bool:
    return state_dict.keys() == own.keys() and all(
        isinstance(tensor := state_dict[k], torch.Tensor) and not tensor.is_nested and tensor.shape == v.shape
        for k, v in own.items()
    )


def _adapt(state_dict: Mapping[str, Any] | Checkpoint, own: Tensors, model: nn.Module, img_size: _Size) -> Tensors:
    checkpoint = state_dict if isinstance(state_dict, Checkpoint) else find_network(state_dict)
    source = translate(checkpoint)
    if source is not None:
        _check_structure(source, model.cfg)
        tensors, img_size = source.tensors, source.structure.img_size
    else:
        checkpoint, known = with_own_head(checkpoint)
        _check_same_network(checkpoint.tensors, known, own, model.cfg)
        tensors = {k: as_linear(v, own.get(k)) for k, v in checkpoint.tensors.items()}
    left_over = next((name for name in tensors if '.rel_pos.' in name), None)
    if model.cfg.rel_attn == 'none' and left_over is not None:
        raise CheckpointError(
            f'The checkpoint was trained with a relative bias ({left_over}), which this model of '
            "rel_attn='none' does not have; build it with the rel_attn of the checkpoint ('pre' is the default), or "
            'drop the bias on purpose with load_state_dict(..., strict=False).'
        )
    return _resize_tables(tensors, own, model, img_size)


def _check_same_network(state_dict: Tensors, known: Known | None, own: Tensors, cfg: CoAtNetCfg) -> None:
    """Raise if the checkpoint is another registered network's, or surely not of a network that computes as this one."""
    timms = is_timms(state_dict)
    if known is None:
        return _check_unseen(cfg) if timms else None
    is_alike = not timms or all(getattr(known.cfg, name) == getattr(cfg, name) for name in _UNSEEN)
    if is_alike and fingerprint(state_dict) == fingerprint(own):
        return
    raise CheckpointError(
        f'The checkpoint is {known.title} and does not fit this model of impl={cfg.impl!r}; load it with {known.call}.'
    )


def _resize_tables(tensors: Tensors, own: Tensors, model: nn.Module, img_size: _Size) -> Tensors:
    """Resize relative position tables that were trained at another input size, as timm does.

    For windows, tables of a whole feature map are first cut down to the offsets inside a window.
    """
    cfg, out, side = model.cfg, dict(tensors), square_size(tensors, model.cfg.patch_size)
    is_square = cfg.attn_window is not None or side is not None
    if cfg.attn_window and side:
        img_size = img_size or (side, side)

    def grids(size: tuple[int, int], stage: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) of the feature map of a stage, and of the part that attention sees at once."""
        whole = feature_sizes(size, stage + 1, cfg.patch_size)[stage]
        return whole, tuple(min(side, cfg.attn_window or side) for side in whole)

    for key in own:
        if key not in tensors or not key.endswith(f'.rel_pos.{TABLE}'):
            continue
        table, shape, stage = tensors[key], own[key].shape, int(key.split('.')[1])
        whole, trained = grids(img_size or model.img_size, stage)
        if trained != whole and len(table) == num_offsets(whole):
            offsets = table.reshape(2 * whole[0] - 1, 2 * whole[1] - 1, -1)
            y, x = whole[0] - trained[0], whole[1] - trained[1]
            table = offsets[y : y + 2 * trained[0] - 1, x : x + 2 * trained[1] - 1].flatten(0, 1)
        if img_size and len(table) != num_offsets(trained):
            raise CheckpointError(
                f'The table {key} has {len(table)} rows, but must have {num_offsets(trained)} at img_size='
                f'{list(img_size)} and attn_window={cfg.attn_window}, as the configuration of the checkpoint says.'
            )
        if not (img_size or is_square or table.shape == shape):
            raise CheckpointError(
                f'The table {key} has {len(table)} rows, so the network was not trained on square images; give the '
                'model the size of these images: img_size=(HEIGHT, WIDTH).'
            )
        window = grids(model.img_size, stage)[1]
        if (img_size and trained != window) or table.shape != shape:
            table = resize_rel_pos_bias_table(table, window, shape, trained if img_size else None)
        out[key] = table
    return out
