"""Fitting a state dict to a model: whose names it has, whether it belongs to this model, and resizing tables.

Works on raw checkpoints of this package, of timm and of the codes in `sources` alike; `CoAtNet.load_state_dict` and
timm's loading of pretrained weights both go through `adapt_state_dict`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from timm.layers import resize_rel_pos_bias_table
from torch import nn

from ..checkpoints.codes import Source, find_source
from ..checkpoints.reading import find_state_dict
from ..checkpoints.structure import Structure
from ..errors import CheckpointError
from ..tables.configs import SIZES, CoAtNetCfg, list_impls, resolve_cfg
from ..tables.grids import feature_sizes, num_offsets
from .attention import PreAttention
from .rel_pos import crop_rel_pos_table

_TABLE = 'relative_position_bias_table'


def adapt_state_dict(
    state_dict: Mapping[str, Any], model: nn.Module, img_size: tuple[int, int] | None = None
) -> dict[str, torch.Tensor]:
    """Bring a checkpoint into the names, layouts and table sizes of a model.

    Args:
        state_dict: A checkpoint of this package, of timm's CoAtNets or of a code in `sources`, wrapped or not.
        model: The `CoAtNet` that it is to be loaded into.
        img_size: Native input size of the checkpoint, where that is known; otherwise it is taken to be square, or
            the model's if the tables' length is the same.

    Returns:
        A state dict for `model.load_state_dict`. Tensors that do not fit the model, in a checkpoint that is none of
        its implementation's relatives, are left for that to report.

    Raises:
        CheckpointError: If the checkpoint is one of another implementation or size; the message has the call that
            loads it.
    """
    own = model.state_dict()
    same_size = img_size in (None, model.img_size)
    if same_size and state_dict.keys() == own.keys() and all(state_dict[k].shape == v.shape for k, v in own.items()):
        return dict(state_dict)
    state_dict = find_state_dict(state_dict)
    source = find_source(state_dict)
    if source is not None:
        structure = source.infer_structure(state_dict)
        _check_structure(structure, source, model)
        state_dict = source.to_canonical(state_dict, structure)
        img_size = structure.img_size
    else:
        state_dict = {k: _as_linear(v, own.get(k)) for k, v in state_dict.items()}
        _check_same_network(state_dict, own, model)
    _check_has_positions(state_dict, model)
    return _resize_tables(state_dict, model, img_size)


def _as_linear(tensor: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
    """timm's 1x1 convolutions in Transformer blocks are linear layers here."""
    if own is not None and own.ndim == 2 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    return tensor


def _resize_tables(
    state_dict: dict[str, torch.Tensor], model: nn.Module, img_size: tuple[int, int] | None
) -> dict[str, torch.Tensor]:
    """Resize relative position tables that were trained at another input size, as timm does.

    For windows, tables of a whole feature map are first cut down to the offsets inside a window.
    """
    out = dict(state_dict)
    for name, attn in model.named_modules():
        key = f'{name}.rel_pos.{_TABLE}'
        if key not in state_dict or not isinstance(attn, PreAttention):
            continue
        table, own = state_dict[key], attn.rel_pos
        stage = int(name.split('.')[1])
        whole = feature_sizes(img_size or model.img_size, stage + 1, model.cfg.patch_size)[stage]
        trained = attn.table_size(whole)
        if attn.window and len(table) == num_offsets(whole):
            table = crop_rel_pos_table(table, whole, trained)
        shape = own.relative_position_bias_table.shape
        if (img_size and trained != own.window_size) or table.shape != shape:
            table = resize_rel_pos_bias_table(table, own.window_size, shape, trained if img_size else None)
        out[key] = table
    return out


def _check_has_positions(state_dict: Mapping[str, torch.Tensor], model: nn.Module) -> None:
    if model.cfg.rel_attn != 'none':
        return
    left_over = next((name for name in state_dict if '.rel_pos.' in name), None)
    if left_over is not None:
        raise CheckpointError(
            f"The checkpoint was trained with a relative bias ({left_over}), which this model of rel_attn='none' has "
            "not; build it with the checkpoint's rel_attn ('pre' is the default), or leave the bias out knowingly, by "
            'load_state_dict(..., strict=False).'
        )


def _check_structure(structure: Structure, source: Source, model: nn.Module) -> None:
    # Other classes or channels are for torch to report, or for timm to adapt.
    if model.cfg.impl == source.IMPL and not _differences(structure, model.cfg):
        return
    size, args = describe(structure, source.IMPL)
    call = ', '.join([repr(size), f'impl={source.IMPL!r}', *(f'{k}={v!r}' for k, v in args.items())])
    raise CheckpointError(
        f'The checkpoint was saved by {source.CODE} and does not fit this model of impl={model.cfg.impl!r}; load it by '
        f'timm.create_model({call}, checkpoint_path=...).'
    )


def describe(structure: Structure, impl: str) -> tuple[str, dict[str, Any]]:
    """The registered name closest to a structure, and the arguments that make it exactly that one.

    Args:
        structure: What was read off a checkpoint.
        impl: The implementation that has the details of the code that wrote it.
    """
    sizes = [s for s in SIZES if impl in list_impls(s)]
    differences = {size: _differences(structure, resolve_cfg(size, impl)) for size in sizes}
    size = min(sizes, key=lambda s: len(differences[s]))
    args = differences[size]
    if structure.in_chans != 3:
        args['in_chans'] = structure.in_chans
    if structure.num_classes != 1000:
        args['num_classes'] = structure.num_classes
    if structure.img_size not in (None, (224, 224)):
        args['img_size'] = structure.img_size
    return size, args


def _differences(structure: Structure, cfg: CoAtNetCfg) -> dict[str, Any]:
    """The arguments of a structure that a configuration does not have."""
    args = structure.cfg_args()
    if [set(types) for types in cfg.stage_types] == [{kind} for kind in structure.block_types]:
        del args['block_types']
    return {k: v for k, v in args.items() if getattr(cfg, k) != v}


def _check_same_network(state_dict: dict[str, torch.Tensor], own: dict[str, torch.Tensor], model: nn.Module) -> None:
    """Raise if the checkpoint is exactly some other registered network's."""
    if _body(state_dict) == _body(own):
        return
    known = identify(state_dict, partial(type(model), device='meta'))
    if known is not None:
        size, impl = known
        raise CheckpointError(
            f'The checkpoint is {size} of impl={impl!r}, which does not fit this model of impl={model.cfg.impl!r}; '
            f'load it by timm.create_model({size!r}, impl={impl!r}, checkpoint_path=...).'
        )


def identify(
    state_dict: Mapping[str, torch.Tensor], build: Callable[[CoAtNetCfg], nn.Module]
) -> tuple[str, str] | None:
    """Which registered name and implementation a checkpoint of this package or of timm belongs to, if any.

    Args:
        state_dict: Tensors by name, without wrapper prefixes.
        build: Makes a model of a configuration, to compare with; on the meta device, as only shapes matter.
    """
    body = _body(state_dict)
    for size in SIZES:
        for impl in list_impls(size):
            cfg = resolve_cfg(size, impl)
            if _has_blocks(state_dict, cfg) and body == _body(build(cfg).state_dict()):
                return size, impl
    return None


def _body(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes of what makes a network: not its classes, channels, input size, or timm's convolutions for linears."""
    return {
        k: tuple(v.shape[:2] if v.ndim == 4 and v.shape[2:] == (1, 1) else v.shape)
        for k, v in tensors.items()
        if not k.startswith('head.fc.') and k != 'stem.conv1.weight' and not k.endswith(_TABLE)
    }


def _has_blocks(state_dict: Mapping[str, Any], cfg: CoAtNetCfg) -> bool:
    """A cheap look before a candidate is built: the same number of blocks in every stage."""
    blocks = {tuple(k.split('.')[:4]) for k in state_dict if k.startswith('stages.')}
    return blocks == {('stages', str(s), 'blocks', str(b)) for s, d in enumerate(cfg.depths) for b in range(d)}
