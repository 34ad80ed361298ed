"""The file of the weights of a configuration, and loading its tensors into a model."""

import dataclasses
import os
from pathlib import Path

import torch
from timm.models import PretrainedCfg
from torch import nn

from ..convert import adapt_checked, check_structure, find_reader, read_checkpoint, read_translated, require_regular
from ..errors import CheckpointError
from ..files import SAFETENSORS
from ..hub import fetch_release, fetch_weights
from ..network import initial_weights
from ..registry import WEIGHTS, CoAtNetCfg


def localize(cfg: PretrainedCfg, size: str, model_cfg: CoAtNetCfg, cache_dir: str | None) -> PretrainedCfg:
    """Change a configuration so that it names a file on this machine. The file is downloaded if necessary.

    timm itself falls back to pickles, and trusts a `config.json` that names other places for the weights.

    Args:
        cfg: The configuration that timm resolves.
        size: Registered name without tag.
        model_cfg: Structure of the model of the weights.
        cache_dir: Cache of huggingface_hub; see `hub.release_file` for weights of a release page.

    Returns:
        A configuration with a safetensors file or with tensors; an unchanged one if the weights are a `state_dict`, the
        `url` of a user, or a torch file.

    Raises:
        HubError: If the file cannot be fetched.
        CheckpointError: If a local folder has no safetensors file, or if a torch file or the file of a third-party code
            is damaged or does not fit.
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
    elif published and published.release and cfg.url and not handed_over and cfg.url.endswith(published.release):
        file = fetch_release(published.release, published.md5, cache_dir)
    elif cfg.file and find_reader(Path(cfg.file)):
        return dataclasses.replace(cfg, file=None, state_dict=_read_third_party(cfg.file, model_cfg))
    elif cfg.file and str(cfg.file).endswith('.safetensors'):
        file = require_regular(cfg.file)
    else:
        if cfg.file:
            read_checkpoint(cfg.file, ema=None)  # timm reads the file again, but does not check for damage
        return cfg
    return dataclasses.replace(cfg, file=str(file), source=None, url=None, state_dict=None, custom_load=False)


def _read_third_party(file: str, model_cfg: CoAtNetCfg) -> dict[str, torch.Tensor]:
    translation = read_translated(file)
    check_structure(translation, model_cfg)
    return translation.tensors


def load_file(model: nn.Module, file: str | os.PathLike) -> None:
    """Load a checkpoint file into a model; of several weights in the file the moving average, as timm does.

    Raises:
        CheckpointError: If the file cannot be read, or is of another network.
        RuntimeError: If tensors are missing, left over or of the wrong shape.
    """
    model.load_state_dict(adapt_checked(read_checkpoint(file, ema=None), model, None))


def materialize(model: nn.Module, device: torch.device | str) -> None:
    """Initialise a new classifier, the only layer that a file may lack, and move everything to a device."""
    for module in model.modules():
        if any(p.is_meta for p in module.parameters(recurse=False)):
            module.to_empty(device='cpu', recurse=False)
            module.reset_parameters()
            initial_weights(model.cfg).head(module)
    model.to(device)
