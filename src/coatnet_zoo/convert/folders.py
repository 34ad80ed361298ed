"""Folders and repositories with a config.json of timm, the form in which fine-tuned networks are published."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from timm.models import is_model_in_modules, resolve_model_input_args

from ..errors import CheckpointError, HubError, first_line, shown
from ..files import CONFIG, SAFETENSORS
from ..hub import fetch_weights
from ..registry import TIMM_NAMES
from .adapter import Checkpoint
from .reading import read_checkpoint

_WEIGHTS = (SAFETENSORS, 'pytorch_model.bin')
_HUB = ('hf-hub:', 'hf_hub:')
SOURCES = (*_HUB, 'local-dir:')


def is_folder(src: str) -> bool:
    """Whether a source of a conversion is a folder or a repository, and not a file."""
    return src.startswith(SOURCES) or Path(src).is_dir()


def read_config(src: str) -> tuple[Path, dict[str, Any]]:
    """The folder of a source, and its config.json as the arguments for `timm.create_model`, with `model_name`.

    Raises:
        CheckpointError: If there is no config.json of timm.
        HubError: If the repository cannot be fetched.
    """
    is_repository = src.startswith(_HUB)
    place = src.partition(':')[2] if src.startswith(SOURCES) else src
    try:
        folder = fetch_weights(place, CONFIG).parent if is_repository else Path(place)
        return folder, resolve_model_input_args(f'local-dir:{folder}')
    except HubError:
        raise
    except Exception as e:  # timm raises many kinds for a bad file
        file = next((file for name in _WEIGHTS if (file := Path(place, name)).is_file()), None)
        way = f'; convert the file in it: coatnet-zoo convert {shown(file, 500)} DST' if file else ''
        raise CheckpointError(
            f'{shown(src, 500)} has no {CONFIG} of timm, which describes the network ({shown(first_line(e))}){way}.'
        ) from e


def read_folder(src: str, ema: bool | None = False) -> tuple[Checkpoint, list[str] | None] | None:
    """Read a folder of `timm.models.save_for_hf` or of transformers, or a repository `hf-hub:ORG/NAME` with one.

    Returns:
        The checkpoint, as if train.py had started from the folder, and the labels, if there are any; None for a network
        of this package.

    Raises:
        CheckpointError: If the folder has no network that this package has, or cannot be read.
        HubError: If the repository cannot be fetched.
    """
    folder, config = read_config(src)
    architecture, cfg = config['model_name'], config['pretrained_cfg']
    if is_model_in_modules(architecture, 'coatnet'):
        return None
    if TIMM_NAMES.get(architecture) is None:
        raise CheckpointError(f"{shown(src, 500)} has timm's {shown(architecture)}, which is no network here.")
    if src.startswith(_HUB):
        weights = fetch_weights(src.partition(':')[2], SAFETENSORS)
    else:
        weights = next((file for name in _WEIGHTS if (file := folder / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f'{shown(src, 500)} has no {SAFETENSORS}; give the checkpoint file itself.')
    record = dict(model=f'local-dir:{folder}', in_chans=config.get('in_chans', cfg['input_size'][0]))
    labels = cfg.get('label_names')
    is_list = isinstance(labels, (list, tuple)) and all(isinstance(label, str) for label in labels)
    return replace(read_checkpoint(weights, ema), record=record), list(labels) if is_list else None
