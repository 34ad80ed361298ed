"""The paper's comparison of layouts and of forms of relative attention, on a small scale.

    python -m scripts.studies.layouts --out docs/layouts

The command trains ViT_REL, C-C-C-C, C-C-C-T, C-C-T-T and C-T-T-T, whose parameters and multiply-adds agree within 5 %.
It also trains C-C-T-T with its relative bias after the softmax, and without a relative bias. Every network is trained
from scratch on scikit-learn's digits with several seeds, without augmentation. The command writes every epoch to
docs/layouts.csv, and the curves with confidence bands over the seeds to docs/layouts.png.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from sklearn.model_selection import train_test_split
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn
from tqdm import tqdm

from ..counting import multiply_adds, num_params
from ..train_digits import IMG_SIZE, accuracy, scaled_digits
from .layouts_picture import Epoch, draw, summary

_DEPTHS = (1, 2, 3, 1)
# Widths, and stems where widths do not suffice, give the costs of C-C-T-T at 64 pixels; `check_costs` checks that.
LAYOUTS: dict[str, dict[str, Any]] = {
    'ViT_REL': dict(stem_width=128, embed_dim=(128,) * 4, depths=(2, 2, 2, 1), dim_head=32, mlp_ratio=2.7),
    'CCCC': dict(stem_width=(16, 16), embed_dim=(32, 80, 144, 192), depths=_DEPTHS, block_types='CCCC'),
    'CCCT': dict(stem_width=(16, 16), embed_dim=(32, 80, 128, 192), depths=_DEPTHS, block_types='CCCT'),
    'CCTT': dict(stem_width=(16, 16), embed_dim=(32, 64, 128, 192), depths=_DEPTHS, block_types='CCTT'),
    'CTTT': dict(stem_width=(8, 8), embed_dim=(24, 64, 128, 192), depths=_DEPTHS, block_types='CTTT'),
}
RUNS = [*((layout, 'pre') for layout in LAYOUTS), ('CCTT', 'post'), ('CCTT', 'none')]


def build(layout: str, rel_attn: str = 'pre', device: str = 'cpu') -> nn.Module:
    """A model of a layout for the digits."""
    name = 'vit_rel_tiny' if layout == 'ViT_REL' else 'coatnet_0'
    options = dict(LAYOUTS[layout], rel_attn=rel_attn, img_size=IMG_SIZE, num_classes=10, in_chans=3)
    return timm.create_model(name, impl='paper', device=device, **options)


def check_costs() -> None:
    """Print the costs of the layouts.

    Raises:
        ValueError: If a layout costs more than 5 % more or less than C-C-T-T.
    """
    models = {layout: build(layout, device='meta').eval() for layout in LAYOUTS}
    costs = {layout: (num_params(model), multiply_adds(model)) for layout, model in models.items()}
    for layout, (params, adds) in costs.items():
        print(f'{layout:8} {params / 1e3:7.0f} k parameters, {adds / 1e6:7.1f} M multiply-adds')
        if any(abs(a / b - 1) > 0.05 for a, b in zip((params, adds), costs['CCTT'], strict=True)):
            raise ValueError(f'{layout} costs more than 5 % more or less than CCTT at {IMG_SIZE} pixels.')


def train(layout: str, rel_attn: str, seed: int, args: argparse.Namespace) -> Iterator[Epoch]:
    """Train from scratch on a stratified part of the digits; yields every epoch."""
    torch.manual_seed(seed)
    images, classes = scaled_digits()
    parts = train_test_split(range(len(classes)), train_size=args.train_images, random_state=seed, stratify=classes)
    (x, y), held_out = ((images[part].repeat(1, 3, 1, 1), classes[part]) for part in parts)
    model = build(layout, rel_attn).to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt='adamw', lr=1e-3, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(
        optimizer, sched='cosine', num_epochs=args.epochs, warmup_epochs=3, warmup_lr=1e-4, min_lr=1e-6
    )
    for epoch in range(epochs):
        model.train()
        losses = []
        for rows in torch.randperm(len(x)).split(32):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        scheduler.step(epoch + 1)
        mean = sum(losses) / len(losses)
        yield Epoch(layout, rel_attn, seed, epoch, mean, accuracy(model, x, y), accuracy(model, *held_out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, help='path without suffix of the CSV file and the picture')
    parser.add_argument('--train-images', type=int, default=300, help='the rest is held out')
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--epochs', type=int, default=20)
    args = parser.parse_args()
    check_costs()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Epoch] = []
    with args.out.with_suffix('.csv').open('w', newline='') as f:
        writer = csv.writer(f)
        writer.writerow(Epoch._fields)
        # Seed by seed, so that layouts can be compared after an interruption.
        runs = [(layout, form, seed) for seed in range(args.seeds) for layout, form in RUNS]
        for layout, form, seed in tqdm(runs, unit='network'):
            for row in train(layout, form, seed, args):
                writer.writerow(row)
                rows.append(row)
            f.flush()
    draw(rows, args.out.with_suffix('.png'))
    print(summary(rows))


if __name__ == '__main__':
    main()
