"""Measure how many images per second the models of the README's table classify, for `docs/models.csv`.

    python -m scripts.benchmarks.models

The models are optimised, with random weights in float32, and alternate with eight images of their native size.
"""

import csv

import timm
import torch

import coatnet_zoo

from ..choice import CHOICE, CPU, SPEEDS
from .core import THREADS, compare

BATCH = 8


@torch.inference_mode()
def main() -> None:
    calls = {}
    torch.set_num_threads(THREADS)
    for name in CHOICE:
        model = coatnet_zoo.optimize_for_inference(timm.create_model(name).eval())
        images = torch.randn(BATCH, *model.pretrained_cfg['input_size'])
        calls[name] = lambda model=model, images=images: model(images)
    rows = compare('models', f'batch {BATCH}', calls, rounds=5, tolerance=None)
    with SPEEDS.open('w', newline='') as f:
        writer = csv.writer(f)
        writer.writerow(['name', CPU])
        writer.writerows([row.candidate, f'{BATCH / row.seconds:.3g}'] for row in rows)


if __name__ == '__main__':
    main()
