"""`coatnet-zoo finetune` beside timm's train.py: all of Fashion-MNIST, or photos of eight folders of openclipart.

    python -m scripts.benchmarks.finetuning pytorch-image-models/train.py [/usr/share/openclipart/png]

Runs alternate, with one thread and one process for loading; the time is that of the fastest epoch that trains all.
"""

import contextlib
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from coatnet_zoo_runtime import ImageError, opaque, open_image

from ..studies.layouts_data import load
from ..train_digits import write_images

OPENCLIPART = ('animals', 'food', 'geography', 'office', 'people', 'recreation', 'tools', 'transportation')

TIMMS = (
    'run train.py --data-dir data --val-split val --in-chans 3 --device cpu -j 1 -b 32 --mean .5 .5 .5 --std .5 .5 .5 '
    '--channels-last --opt adamw --weight-decay 0.05 --sched-on-updates --scale 0.5 1 --color-jitter 0.2 --output .'
)
HEAD = '--pretrained --layer-decay 0.1 --layer-decay-no-opt-scale 0.5 --lr 1e-2 --warmup-epochs 0'
REST = '--layer-decay 0.75 --lr 5e-4 --warmup-epochs 1'


def measure(folder: Path, out: str, arguments: str, epochs: int) -> tuple[float, float]:
    """Run a command; return the best accuracy, and the time of the fastest of the last epochs, without the first."""
    command, env = [sys.executable, '-um', 'coatnet_zoo', *arguments.split()], {**os.environ, 'OMP_NUM_THREADS': '1'}
    with subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=-1, stderr=-2) as process:
        times = [time.perf_counter() for line in process.stdout if 'top1 ' in line or 'Current checkpoints' in line]
    rows = csv.DictReader((folder / out / 'summary.csv').open())
    return max(float(row.get('eval_top1') or row['top1']) for row in rows), min(np.diff(times[-epochs:]), default=0)


def write_openclipart(folder: Path, source: Path) -> None:
    """80 different drawings of each class for training and 45 for validation, on white, with up to 128 pixels."""
    for label in OPENCLIPART:
        files, seen = sorted((source / label).rglob('*.png')), set()
        np.random.default_rng(0).shuffle(files)
        for part in ('train', 'val'):
            (folder / part / label).mkdir(parents=True)
        while len(seen) < 125:
            with contextlib.suppress(ImageError):
                image = opaque(open_image(files.pop(0)), 3)
                image.thumbnail((128, 128))
                if image.tobytes() not in seen:
                    seen.add(image.tobytes())
                    image.save(folder / ('train' if len(seen) <= 80 else 'val') / label / f'{len(seen)}.png')


def main() -> None:
    script, *photos = sys.argv[1:]
    size, head, rest = (64, 3, 6) if photos else (32, 1, 3)  # pixels; epochs of the classifier, and of everything
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(script, folder / 'train.py')  # beside it, Python would find the timm of a checkout
        if photos:
            write_openclipart(folder / 'data', Path(photos[0]))
        else:
            for part, images in zip(('train', 'val'), load('fashion-mnist'), strict=True):
                write_images(*images, folder / 'data' / part)
        for seed in range(3):
            both = f'--model coatnet_atto --img-size {size} --seed {seed}'
            ours = f'finetune data ours{seed} {both} --epochs {head + rest}'
            timms = f'{TIMMS} {both} --num-classes {len(os.listdir(folder / "data" / "train"))}'
            first = f'{timms} {HEAD} --experiment head{seed} --epochs {head}'
            then = f'{timms} {REST} --initial-checkpoint head{seed}/last.pth.tar --experiment all{seed} --epochs {rest}'
            runs = {f'ours{seed}': ours, f'head{seed}': first, f'all{seed}': then}
            (accuracy, epoch), _, (timms_accuracy, timms_epoch) = (measure(folder, *run, rest) for run in runs.items())
            results.append((accuracy, epoch, timms_accuracy, timms_epoch, epoch / timms_epoch))
            print('accuracy and seconds of finetune, and of train.py; ratio:', *np.round(results[-1], 3), flush=True)
    print('mean:', *np.mean(results, 0).round(3), 'std:', *np.std(results, 0, ddof=1).round(3))


if __name__ == '__main__':
    main()
