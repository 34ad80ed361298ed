"""Folders and repositories of timm's own CoAtNets, the form in which fine-tuned ones are published."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, first_line, shown
from ..files import CONFIG, SAFETENSORS
from ..hub import fetch_weights
from ..registry import SIZES, TIMM_NAMES
from .adapter import Checkpoint
from .reading import read_checkpoint


def is_folder(src: str) -> bool:
    """Whether a source of a conversion is a folder or a repository, and not a file."""
    return src.startswith(('hf-hub:', 'hf_hub:', 'local-dir:')) or Path(src).is_dir()


def read_folder(src: str, ema: bool | None = False) -> tuple[Checkpoint, list[str] | None]:
    """Read a folder of `timm.models.save_for_hf` or of transformers, or a repository `hf-hub:ORG/NAME` with one.

    Returns:
        The checkpoint, with what config.json says as a record of timm's train.py; and the labels, if there are any.

    Raises:
        CheckpointError: If the folder has no network of timm that this package has, or cannot be read.
        HubError: If the repository cannot be fetched.
    """
    place = src.removeprefix('local-dir:')
    if src.startswith(('hf-hub:', 'hf_hub:')):
        place = src[len('hf-hub:') :]
        config, weights = (fetch_weights(place, name) for name in (CONFIG, SAFETENSORS))
    else:
        config = Path(place, CONFIG)
        weights = next((f for f in (Path(place, SAFETENSORS), Path(place, 'pytorch_model.bin')) if f.is_file()), None)
    if weights is None:
        raise CheckpointError(f'{shown(src, 500)} has no {SAFETENSORS}; give the checkpoint file itself.')
    try:
        content = json.loads(config.read_bytes())
        record, labels = _record(content), content.get('label_names')
        labels = labels if isinstance(labels, list) and all(isinstance(label, str) for label in labels) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(
            f'{shown(src, 500)} has no {CONFIG} of timm ({shown(first_line(e))}); give the checkpoint file itself.'
        ) from e
    if record['model'] in SIZES:
        raise CheckpointError(f'{shown(src, 500)} is of this package already: timm.create_model(..., pretrained=True).')
    if TIMM_NAMES.get(record['model']) is None:
        raise CheckpointError(f"{shown(src, 500)} has timm's {shown(record['model'])}, which is no network here.")
    return replace(read_checkpoint(weights, ema), record=record), labels


def _record(content: dict[str, Any]) -> dict[str, Any]:
    cfg = content.get('pretrained_cfg') or {}
    facts = {name: cfg.get(name) for name in ('mean', 'std', 'interpolation', 'crop_pct', 'input_size')}
    arguments = {k: v for k, v in (content.get('model_args') or {}).items() if k != 'num_classes'}
    classes = content.get('num_classes', cfg.get('num_classes'))
    return {
        **facts,
        'model': content['architecture'].partition('.')[0],
        'num_classes': classes,
        'model_kwargs': arguments,
    }
