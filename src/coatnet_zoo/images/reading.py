"""What a model records about its images and classes: how images are prepared, and the labels."""

import logging
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_model_data_config

from ..convert import average, label_list
from ..errors import ExplainError
from ..network import CoAtNet
from ..registry import INTERPOLATIONS, Crop, Positive, check, short

_log = logging.getLogger(__name__)


def classifier_problem(model: CoAtNet) -> str | None:
    """Why a model cannot classify image files; None if it can."""
    if not model.num_classes or not model.global_pool:
        return 'The model has no classifier; load one with a classifier.'
    if model.in_chans not in (1, 3):
        return f'The model takes {model.in_chans} channels; image files have 1 or 3.'
    return None


def data_config(model: CoAtNet, size: tuple[int, int]) -> dict[str, Any]:
    """The preprocessing to (height, width) in pixels, in the form that `timm.data.create_transform` takes.

    Raises:
        ExplainError: If the configuration of the model has no mean or no std, other numbers of them, or a value with
            which timm's transforms would fail or not end.
    """
    config = resolve_model_data_config(model, args={'input_size': (model.in_chans, *size)})
    try:
        check('mean', config['mean'], tuple[float, ...])
        check('std', config['std'], tuple[Positive, ...])
        check('crop_pct', config['crop_pct'], Crop)
        check('interpolation', config['interpolation'], Literal[tuple(INTERPOLATIONS)])
    except ValueError as e:
        raise ExplainError(f"In the model's configuration, {e}") from e
    if not len(config['mean']) == len(config['std']) > 0:
        raise ExplainError(
            f"The model's configuration has mean {short(config['mean'])} and std {short(config['std'])}; put the mean "
            'and std of the training there, a value for each channel (model.pretrained_cfg, or config.json).'
        )
    if len(config['mean']) != model.in_chans:
        # Of a model with other channels than its weights; `convert` and timm take the average, too.
        config |= {key: average(config[key], model.in_chans) for key in ('mean', 'std')}
        found = f'mean {config["mean"][0]} and std {config["std"][0]}'
        _log.warning('%d channels without mean and std: assuming the average, %s.', model.in_chans, found)
    return config


def logits_of(model: CoAtNet) -> Callable[[np.ndarray], np.ndarray]:
    """The function of arrays that a model on the CPU, in evaluation mode, computes."""

    def logits(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()

    return logits


def known_labels(model: CoAtNet) -> list[str] | None:
    """The labels of the classes, or None. 1000 classes without labels get those of ImageNet, as in timm's scripts."""
    names = label_list(model.pretrained_cfg.get('label_names') or (), model.num_classes)
    if names is not None and len(names) == model.num_classes:
        return names
    if subset := infer_imagenet_subset(model):
        return ImageNetInfo(subset).label_descriptions()
    return None
