"""Whether the weights of a file belong to the network that a configuration describes.

First the names and shapes in the file are compared with the config.json, whose numbers may have any size: no network is
made that is larger than the file. Then the tensors are compared with the model.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from timm.layers import to_2tuple
from timm.models import PretrainedCfg
from torch import nn

from ..convert import not_whole
from ..errors import CheckpointError, shown
from ..network import CoAtNet, num_params
from ..registry import CoAtNetCfg, attention_grids, num_offsets

_Shapes = Mapping[str, tuple[int, ...]]

# The limit for a config.json without weights, above the number of the largest CoAtNet.
_MOST_PARAMETERS = 4_000_000_000
_TABLE = re.compile(r'stages\.(\d{1,4})\.blocks\.\d+\.[\w.]*rel_pos\.relative_position_bias_table')


def check_size(where: str, cfg: CoAtNetCfg, arguments: Mapping[str, Any], img_size: Any, file: Path) -> None:
    """Refuse a config.json if its numbers are too large for the file of its weights.

    Args:
        where: The name of the config.json in messages.
        cfg: The structure that the config.json describes.
        arguments: The arguments of the model in the config.json.
        img_size: Height and width of the images in the config.json; an `img_size` in `arguments` replaces them.
        file: The safetensors file of the weights.

    Raises:
        CheckpointError: If a number is too large, or if a table is for another size of images; the message names it.
    """
    shapes = _shapes(file)
    layers = len(cfg.stem_width) + sum(cfg.depths)
    if layers > len(shapes):
        raise CheckpointError(
            f'{where} describes {layers:,} layers, but {shown(file)} has only {len(shapes):,} tensors; the two do not '
            'belong together.'
        )
    if cfg.rel_pos_type != 'bias' or cfg.rel_attn == 'none':
        return
    recorded, values = arguments.get('img_size'), sum(map(math.prod, shapes.values()))
    size = to_2tuple(recorded or img_size)
    grids = attention_grids(cfg, size)
    windows = {s: tuple(min(side, cfg.attn_window or side) for side in grid) for s, grid in grids.items()}
    rows = {stage: num_offsets(window) for stage, window in windows.items()}
    if max(rows.values(), default=0) > values:
        raise CheckpointError(
            f'{where} is for images of {size} pixels, which need {max(rows.values()):,} relative positions, but '
            f'{shown(file)} has only {values:,} values; the two do not belong together.'
        )
    for name, shape in shapes.items() if recorded else ():
        found = _TABLE.fullmatch(name)
        wanted = found and rows.get(int(found[1]))
        if wanted and shape[:1] != (wanted,):
            raise CheckpointError(
                f'{where} is for img_size={recorded} and attn_window={cfg.attn_window}, but the tensor {name} in '
                f'{shown(file)} is not: its shape is {shape}, and it must have {wanted} rows.'
            )


def check_without_weights(where: str, model: nn.Module, file: Path | None) -> None:
    """Refuse a config.json if its network is too large to be made without weights.

    Args:
        where: The name of the config.json in messages.
        model: The network of the config.json, on the meta device.
        file: The safetensors file of the weights, or None.

    Raises:
        CheckpointError: If the network has more parameters than the file or, without a file, than any CoAtNet.
    """
    most = sum(map(math.prod, _shapes(file).values())) if file else _MOST_PARAMETERS
    if num_params(model) > most:
        raise CheckpointError(
            f'{where} describes {num_params(model):,} parameters, more than the {most:,} '
            f'{f"values of {shown(file)}" if file else "that any CoAtNet has"}; correct it.'
        )


def check_fit(tensors: Mapping[str, torch.Tensor], model: CoAtNet, cfg: PretrainedCfg, what: str) -> None:
    """Refuse tensors that do not belong to a model, except layers that timm adapts to other images and classes.

    torch would list all tensors that do not fit, and timm would leave missing tensors at random values.

    Args:
        tensors: Tensors by the names of the model.
        model: The model for the tensors.
        cfg: The configuration of the tensors: their numbers of channels and classes, and the layers with these numbers.
        what: The name of the file of the tensors in messages.

    Raises:
        CheckpointError: If a tensor is missing, left over, or of another shape. The message names the tensor.
    """
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    first, last = f'{cfg.first_conv}.weight', f'{cfg.classifier}.'
    if first in own:
        own[first] = (own[first][0], cfg.input_size[0], *own[first][2:])
    if f'{last}weight' in tensors and len(tensors[f'{last}weight']) != cfg.num_classes:
        raise CheckpointError(
            f'{what} has {len(tensors[f"{last}weight"])} classes, but its configuration says num_classes='
            f'{cfg.num_classes}; correct the configuration (config.json, or pretrained_cfg_overlay).'
        )
    adapted = {name for name in own.keys() | tensors.keys() if name.startswith(last)}
    if model.num_classes == cfg.num_classes:
        adapted.clear()
    for name in own.keys() - tensors.keys() - adapted:
        # Files from before torch 0.4.1 do not count batches.
        if not name.endswith('.num_batches_tracked'):
            raise CheckpointError(f'{what} lacks the tensor {name}, so it is not of this network.')
    for name in tensors.keys() - own.keys() - adapted:
        raise CheckpointError(f'{what} has the tensor {shown(name)}, which this network does not have.')
    for name in own.keys() & tensors.keys() - adapted:
        if own[name] != tuple(tensors[name].shape):
            raise CheckpointError(
                f'The tensor {name} of {what} has shape {tuple(tensors[name].shape)}, but this network needs '
                f'{own[name]}.'
            )


def _shapes(file: Path) -> _Shapes:
    try:
        with safe_open(file, 'pt') as opened:
            names = opened.keys()
            return {name: tuple(opened.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as e:
        raise not_whole(file, e) from e
