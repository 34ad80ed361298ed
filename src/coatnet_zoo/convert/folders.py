"""Folders and repositories with a config.json of timm, the form in which fine-tuned networks are published."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from timm.models import is_model_in_modules, resolve_model_input_args

from ..errors import CheckpointError, shown
from ..files import CONFIG, SAFETENSORS
from ..hub import fetch_weights
from ..registry import TIMM_NAMES
from .adapter import Checkpoint
from .preprocessing import label_list
from .reading import read_checkpoint

_HUB = ('hf-hub:', 'hf_hub:')


def is_folder(src: str) -> bool:
    """Whether a source of a conversion is a folder or a repository, and not a file."""
    return src.startswith((*_HUB, 'local-dir:')) or os.path.isdir(src)


def describe(src: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The architecture of a name, a folder or a repository, its pretrained configuration, and its other arguments."""
    name = f'local-dir:{fetch_weights(src[7:], CONFIG).parent}' if src.startswith(_HUB) else src
    arguments = resolve_model_input_args(name)  # raises many kinds for a bad file or name
    arguments.pop('pretrained_model_args', None)
    return arguments.pop('model_name'), arguments.pop('pretrained_cfg'), arguments


def weights_in(folder: str) -> Path | None:
    """The file of weights in a folder."""
    return next((file for name in (SAFETENSORS, 'pytorch_model.bin') if (file := Path(folder, name)).is_file()), None)


def read_folder(src: str, ema: bool | None = False) -> Checkpoint | None:
    """Read `local-dir:FOLDER`, of timm's save_for_hf or of transformers, or a repository `hf-hub:ORG/NAME` with one.

    Returns:
        The checkpoint, as if train.py had started from the folder; None for a network of this package.

    Raises:
        CheckpointError: If the folder has no network that this package has, or cannot be read.
        HubError: If the repository cannot be fetched.
    """
    architecture, cfg, arguments = describe(src)
    if is_model_in_modules(architecture, 'coatnet'):
        return None
    if TIMM_NAMES.get(architecture) is None:
        raise CheckpointError(
            f'{shown(src, 500)} is not a model of this package: its architecture is {shown(architecture)}.'
        )
    weights = fetch_weights(src[7:]) if src.startswith(_HUB) else weights_in(cfg['file'])
    if weights is None:
        raise CheckpointError(f'{shown(src, 500)} has no {SAFETENSORS}; give the checkpoint file itself.')
    record = dict(model=f'local-dir:{cfg["file"]}', in_chans=arguments.get('in_chans', cfg['input_size'][0]))
    stated = dict(labels=label_list(cfg.get('label_names')), license=str(cfg.get('license') or ''))
    return replace(read_checkpoint(weights, ema), record=record, **stated)
