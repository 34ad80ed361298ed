"""The file of the weights of a configuration, and whether its tensors belong to the model.

timm itself falls back to pickles, trusts a `config.json` that names other places for the weights, and leaves tensors
that a file lacks at random values.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from timm.models import PretrainedCfg

from ..convert import check_shapes, require_regular
from ..errors import CheckpointError
from ..files import SAFETENSORS
from ..hub import fetch_release, fetch_weights
from ..network import CoAtNet, initial_weights
from ..registry import WEIGHTS


def localize(cfg: PretrainedCfg, size: str, cache_dir: str | None) -> PretrainedCfg:
    """Change the configuration that timm resolves so that it names a file here, which is downloaded if necessary.

    Weights that are a `state_dict` or the `url` of a user give a configuration without a file.

    Raises:
        HubError: If the file cannot be fetched.
        CheckpointError: If there is no such file, or a local folder has no safetensors file.
    """
    handed_over = cfg.file or cfg.state_dict
    published = WEIGHTS.get(f'{size}.{cfg.tag}')
    if cfg.source == 'local-dir':
        file = Path(cfg.file) / SAFETENSORS
        if not file.is_file():
            raise CheckpointError(f'{cfg.file} has no {SAFETENSORS}; pickled weights (.bin, .pth) are not loaded.')
    elif cfg.source == 'hf-hub' or (cfg.hf_hub_id and not handed_over):
        file = fetch_weights(cfg.hf_hub_id, cfg.hf_hub_filename or SAFETENSORS, cache_dir)
    elif cfg.file and not cfg.state_dict:
        file = require_regular(cfg.file)
    elif published and published.release and not handed_over and (cfg.url or '').endswith(published.release):
        file = fetch_release(published.release, published.md5, cache_dir)
    else:
        return dataclasses.replace(cfg, file=None)
    return dataclasses.replace(cfg, file=str(file), source=None, url=None, state_dict=None, custom_load=False)


def check_fit(tensors: Mapping[str, torch.Tensor], model: CoAtNet, cfg: PretrainedCfg, what: str) -> None:
    """Refuse tensors that do not belong to a model, except layers that timm adapts to other images and classes.

    torch would list all tensors that do not fit, and timm would leave missing tensors at random values. `cfg` is the
    configuration of the tensors.
    """
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    first, last = f'{cfg.first_conv}.weight', f'{cfg.classifier}.'
    if first in own:
        own[first] = (own[first][0], cfg.input_size[0], *own[first][2:])
    # timm's train.py says -1 for `--pretrained-path`: whatever the file has.
    if f'{last}weight' in tensors and 0 <= cfg.num_classes != len(tensors[f'{last}weight']):
        raise CheckpointError(
            f'{what} has {len(tensors[f"{last}weight"])} classes, but its configuration says num_classes='
            f'{cfg.num_classes}; correct the configuration (config.json, or pretrained_cfg_overlay).'
        )
    if model.num_classes != cfg.num_classes:  # timm makes a new classifier
        own = {name: shape for name, shape in own.items() if not name.startswith(last)}
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(last)}
    check_shapes(tensors, own, what)


def materialize(model: torch.nn.Module, device: torch.device | str) -> None:
    """Initialise a new classifier, the only layer that a file may lack, and move everything to a device."""
    for module in model.modules():
        if any(p.is_meta for p in module.parameters(recurse=False)):
            module.to_empty(device='cpu', recurse=False)
            module.reset_parameters()
            initial_weights(model.cfg).head(module)
    model.to(device)
