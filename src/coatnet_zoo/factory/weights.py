"""The file of the weights of a configuration, and whether its tensors belong to the model.

timm itself falls back to pickles, trusts a `config.json` that names other places for the weights, and leaves tensors
that a file lacks at random values.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.layers import to_2tuple
from timm.models import PretrainedCfg

from ..convert import require_regular
from ..errors import CheckpointError, shown
from ..files import SAFETENSORS
from ..hub import fetch_release, fetch_weights
from ..network import CoAtNet, initial_weights
from ..registry import WEIGHTS, CoAtNetCfg, feature_sizes, num_offsets

_TABLE = re.compile(r'stages\.(\d{1,4})\.blocks\.\d+\.[\w.]*rel_pos\.relative_position_bias_table')


def localize(cfg: PretrainedCfg, size: str, cache_dir: str | None) -> PretrainedCfg:
    """Change a configuration so that it names a file on this machine. The file is downloaded if necessary.

    Args:
        cfg: The configuration that timm resolves.
        size: Registered name without tag.
        cache_dir: Cache of huggingface_hub; see `hub.release_file` for weights of a release page.

    Returns:
        A configuration with a file; one without a file if the weights are a `state_dict` or the `url` of a user.

    Raises:
        HubError: If the file cannot be fetched.
        CheckpointError: If there is no such file, or a local folder has no safetensors file.
    """
    handed_over = cfg.file or cfg.state_dict
    published = WEIGHTS.get(f'{size}.{cfg.tag}')
    if cfg.source == 'local-dir':
        file = Path(cfg.file) / SAFETENSORS
        if not file.is_file():
            raise CheckpointError(
                f'{cfg.file} has no {SAFETENSORS}; pickled weights (.bin, .pth) are not loaded from it.'
            )
    elif cfg.source == 'hf-hub' or (cfg.hf_hub_id and not handed_over):
        file = fetch_weights(cfg.hf_hub_id, cfg.hf_hub_filename or SAFETENSORS, cache_dir)
    elif cfg.file and not cfg.state_dict:
        file = require_regular(cfg.file)
    elif published and published.release and not handed_over and (cfg.url or '').endswith(published.release):
        file = fetch_release(published.release, published.md5, cache_dir)
    else:
        return dataclasses.replace(cfg, file=None)
    return dataclasses.replace(cfg, file=str(file), source=None, url=None, state_dict=None, custom_load=False)


def check_tables(tensors: Mapping[str, torch.Tensor], cfg: CoAtNetCfg, img_size: Any, what: str) -> None:
    """Refuse position tables that are not of an image size, because they would be stretched as if they were.

    Args:
        tensors: Tensors by the names of the model.
        cfg: The structure of the network of the tensors.
        img_size: Height and width in pixels, or one number for both, that a config.json states.
        what: The name of the file of the tensors in messages.

    Raises:
        CheckpointError: If a table has another length; the message names the table.
    """
    sizes = feature_sizes(to_2tuple(img_size), len(cfg.depths), cfg.patch_size)
    for name, table in tensors.items():
        if not (found := _TABLE.fullmatch(name)) or int(found[1]) >= len(sizes):
            continue
        height, width = (min(side, cfg.attn_window or side) for side in sizes[int(found[1])])
        if len(table) != num_offsets((height, width)):
            raise CheckpointError(
                f'The config.json is for img_size={img_size} and attn_window={cfg.attn_window}, but the tensor {name} '
                f'of {what} is not: it has {len(table)} rows, and must have {num_offsets((height, width))}.'
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
    is_new = model.num_classes != cfg.num_classes
    for name, shape in own.items():
        if is_new and name.startswith(last):
            continue
        if name not in tensors:
            # Files from before torch 0.4.1 do not count batches.
            if not name.endswith('.num_batches_tracked'):
                raise CheckpointError(f'{what} lacks the tensor {name}, so it is not of this network.')
        elif tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f'The tensor {name} of {what} has shape {tuple(tensors[name].shape)}, but this network needs {shape}.'
            )
    for name in tensors:
        if name not in own and not (is_new and name.startswith(last)):
            raise CheckpointError(f'{what} has the tensor {shown(name)}, which this network does not have.')


def materialize(model: torch.nn.Module, device: torch.device | str) -> None:
    """Initialise a new classifier, the only layer that a file may lack, and move everything to a device."""
    for module in model.modules():
        if any(p.is_meta for p in module.parameters(recurse=False)):
            module.to_empty(device='cpu', recurse=False)
            module.reset_parameters()
            initial_weights(model.cfg).head(module)
    model.to(device)
