"""The paper's comparison of layouts and of forms of relative attention, on a small scale.

    python -m scripts.studies.layouts --out docs/layouts

The command trains ViT_REL, C-C-C-C, C-C-C-T, C-C-T-T and C-T-T-T, whose parameters and multiply-adds agree within 5 %.
It also trains C-C-T-T with its relative bias after the softmax, and without a relative bias. Every network is trained
from scratch with several seeds, without augmentation. Images are scikit-learn's digits, or the images of a folder with
one folder for each class (`--data`). The command writes every epoch to docs/layouts.csv, and the curves with
confidence bands over the seeds to docs/layouts.png.
"""

import argparse
import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn
from tqdm import tqdm

from coatnet_zoo import optimize_for_inference
from coatnet_zoo.network import multiply_adds, num_params

from ..train_digits import accuracy
from .layouts_data import Images, load_images
from .layouts_picture import draw, summary

_DEPTHS = (1, 2, 3, 1)
# Widths, and stems where widths do not suffice, give the costs of C-C-T-T at 64 pixels; `check_costs` checks that.
LAYOUTS: dict[str, dict[str, Any]] = {
    'ViT_REL': dict(stem_width=128, embed_dim=(128,) * 4, depths=(2, 2, 2, 1), dim_head=32, mlp_ratio=2.7),
    'CCCC': dict(stem_width=(16, 16), embed_dim=(32, 80, 144, 192), depths=_DEPTHS, block_types='CCCC'),
    'CCCT': dict(stem_width=(16, 16), embed_dim=(32, 80, 128, 192), depths=_DEPTHS, block_types='CCCT'),
    'CCTT': dict(stem_width=(16, 16), embed_dim=(32, 64, 128, 192), depths=_DEPTHS, block_types='CCTT'),
    'CTTT': dict(stem_width=(8, 8), embed_dim=(24, 64, 128, 192), depths=_DEPTHS, block_types='CTTT'),
}
FORMS = ('pre', 'post', 'none')


@dataclasses.dataclass
class Epoch:
    """A row of the CSV file: accuracies in percent after an epoch, in evaluation mode."""

    layout: str
    rel_attn: str
    seed: int
    epoch: int
    loss: float
    train: float
    held_out: float


def build(layout: str, images: Images, rel_attn: str = 'pre') -> nn.Module:
    """A model of a layout for images."""
    name = 'vit_rel_tiny' if layout == 'ViT_REL' else 'coatnet_0'
    options = dict(LAYOUTS[layout], img_size=images.size, num_classes=images.num_classes)
    return timm.create_model(name, impl='paper', rel_attn=rel_attn, **options)


def costs(layout: str, images: Images) -> tuple[int, float]:
    """Parameters, and multiply-adds of one image."""
    with torch.device('meta'):
        model = build(layout, images).eval()
    return num_params(model), multiply_adds(model)


def check_costs(images: Images) -> None:
    """Print the costs of the layouts.

    Raises:
        ValueError: If a layout costs more than 5 % more or less than C-C-T-T.
    """
    reference = costs('CCTT', images)
    for layout in LAYOUTS:
        params, adds = costs(layout, images)
        print(f'{layout:8} {params / 1e3:7.0f} k parameters, {adds / 1e6:7.1f} M multiply-adds')
        if any(abs(a / b - 1) > 0.05 for a, b in zip((params, adds), reference, strict=True)):
            raise ValueError(f'{layout} costs more than 5 % more or less than CCTT at {images.size} pixels.')


def train(layout: str, rel_attn: str, seed: int, images: Images, args: argparse.Namespace) -> Iterator[Epoch]:
    """Train from scratch; yields every epoch."""
    torch.manual_seed(seed)
    x, y, held_out_x, held_out_y = (t.to(args.device) for t in images.split(seed, args.train_images))
    model = build(layout, images, rel_attn).to(args.device, memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt='adamw', lr=args.lr, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(
        optimizer, sched='cosine', num_epochs=args.epochs, warmup_epochs=3, warmup_lr=1e-4, min_lr=1e-6
    )
    for epoch in range(epochs):
        model.train()
        losses = []
        for rows in torch.randperm(len(x), device=args.device).split(args.batch_size):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        scheduler.step(epoch + 1)
        mean = sum(losses) / len(losses)
        fast = optimize_for_inference(model)
        yield Epoch(layout, rel_attn, seed, epoch, mean, accuracy(fast, x, y), accuracy(fast, held_out_x, held_out_y))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, help='path without suffix of the CSV file and the picture')
    parser.add_argument('--data', type=Path, help='folder with one folder of images for each class; default: digits')
    parser.add_argument('--train-images', type=int, default=300, help='the rest is held out')
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--epochs', type=int, default=20)
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    images = load_images(args.data)
    check_costs(images)
    runs = [(layout, 'pre') for layout in LAYOUTS] + [('CCTT', form) for form in FORMS if form != 'pre']
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Epoch] = []
    with args.out.with_suffix('.csv').open('w', newline='') as f:
        writer = csv.DictWriter(f, [field.name for field in dataclasses.fields(Epoch)])
        writer.writeheader()
        progress = tqdm(total=len(runs) * args.seeds * args.epochs, unit='epoch')
        # Seed by seed, so that layouts can be compared after an interruption.
        for seed in range(args.seeds):
            for layout, form in runs:
                for row in train(layout, form, seed, images, args):
                    writer.writerow(dataclasses.asdict(row))
                    rows.append(row)
                    progress.update()
                    progress.set_postfix(layout=layout, rel_attn=form, seed=seed, held_out=f'{row.held_out:.1f}')
                f.flush()
    draw(rows, args.out.with_suffix('.png'))
    print(summary(rows))


if __name__ == '__main__':
    main()
