"""What a training writes into its folder: the model with its card, tables as CSV, and a picture."""

import csv
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..hub import CARD_FACTS, save_folder
from ..images import require_matplotlib
from ..network import CoAtNet


def write_model(
    folder: Path, name: str, model: CoAtNet, labels: Sequence[str], config: dict[str, Any], facts: Mapping[str, Any]
) -> None:
    """Write weights, `config` (the preprocessing) and a card, for the folder `name`."""
    model = deepcopy(model).to('cpu', memory_format=torch.contiguous_format)  # as safetensors needs it
    content = {'label_names': labels, 'pretrained_cfg': {'tag': 'finetuned'}, CARD_FACTS: facts}
    save_folder(model, folder, name, content, config)


def write_table(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same keys as CSV."""
    with (folder / name).open('w', newline='', encoding='utf-8', errors='surrogateescape') as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def draw_training(folder: Path, rows: Sequence[Mapping[str, Any]], labels: Sequence[str], counts: np.ndarray) -> None:
    """Draw losses and accuracy by epoch, and photos by true and guessed class (num_classes, num_classes), as PNG."""
    figure = require_matplotlib().Figure(figsize=(13, 6), layout='constrained')
    losses, matrix = figure.subplots(1, 2)
    accuracy = losses.twinx()
    for axes, key, colour in ((losses, 'train_loss', 'C0'), (losses, 'val_loss', 'C1'), (accuracy, 'top1', 'C2')):
        axes.plot([row['epoch'] for row in rows], [row[key] for row in rows], colour, label=key)
    losses.set(xlabel='epoch', ylabel='loss')
    accuracy.set_ylabel('top1 (%)')
    figure.legend(loc='outside lower left', ncols=3)
    matrix.imshow(counts / counts.sum(1, keepdims=True).clip(1), cmap='Blues', vmin=0, vmax=1)
    matrix.set(xlabel='guessed', ylabel='true', title='Validation photos in the best epoch')
    if len(labels) <= 30:  # more would not be readable
        for true, guessed in zip(*counts.nonzero(), strict=True):
            matrix.text(guessed, true, str(counts[true, guessed]), ha='center', va='center', color='C1')
        matrix.set_xticks(range(len(labels)), labels, rotation=90, parse_math=False)
        matrix.set_yticks(range(len(labels)), labels, parse_math=False)
    figure.savefig(folder / 'training.png', dpi=100)
