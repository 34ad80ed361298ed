"""Measure how many images per second the models of the README's table classify, for `docs/models.csv`.

    python -m scripts.benchmarks.models --timm-results /path/to/pytorch-image-models/results

The CPU column is measured here: `optimize_for_inference` in float32, eight images of the native size, alternating with
the other models, median of the rounds. Weights are random, because they do not affect the time. The GPU column is
what timm publishes for its own model with the same weights.
"""

import argparse
import csv
import statistics
import time
from pathlib import Path

import timm
import torch
from tqdm import tqdm

import coatnet_zoo
from coatnet_zoo.registry import WEIGHTS

from ..choice import CHOICE, SPEEDS

BATCH = 8
# timm's published run: RTX 4090, automatic mixed precision, channels last, torch 2.4, CUDA 12.4.
GPU_RESULTS = 'benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv'


def cpu_speeds(names: list[str], rounds: int) -> dict[str, float]:
    """Images a second of every model."""
    calls, seconds = {}, {name: [] for name in names}
    for name in tqdm(names, desc='optimising'):
        model = timm.create_model(name).eval()
        images = torch.randn(BATCH, *model.pretrained_cfg['input_size'])
        calls[name] = coatnet_zoo.optimize_for_inference(model), images
    for turn in tqdm(range(rounds + 1), desc='rounds'):
        for name, (model, images) in calls.items():
            start = time.perf_counter()
            with torch.inference_mode():
                model(images)
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: BATCH / statistics.median(times) for name, times in seconds.items()}


def gpu_speeds(names: list[str], results: Path) -> dict[str, float]:
    """Images a second of timm's own model, where timm publishes them."""
    with (results / GPU_RESULTS).open(newline='') as f:
        published = {row['model']: float(row['infer_samples_per_sec']) for row in csv.DictReader(f)}
    theirs = {name: (WEIGHTS[name].hf_hub_id or '').removeprefix('timm/').partition('.')[0] for name in names}
    return {name: published[their] for name, their in theirs.items() if their in published}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--timm-results', type=Path, required=True)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--out', type=Path, default=SPEEDS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = list(CHOICE)
    gpu, cpu = gpu_speeds(names, args.timm_results), cpu_speeds(names, args.rounds)
    with args.out.open('w', newline='') as f:
        writer = csv.writer(f)
        writer.writerow(['name', 'cpu_images_per_second', 'gpu_images_per_second'])
        writer.writerows([name, f'{cpu[name]:.3g}', f'{gpu[name]:.0f}' if name in gpu else ''] for name in names)


if __name__ == '__main__':
    main()
