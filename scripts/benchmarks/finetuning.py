"""`coatnet-zoo finetune` beside timm's train.py, with the same recipe, on Debian's `dataset-fashion-mnist`.

    python -m scripts.benchmarks.finetuning pytorch-image-models/train.py --seeds 3

Runs take turns, with one thread and one process for loading; times are of epochs that train everything.
"""

import argparse
import csv
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SOURCE = Path('/usr/share/datasets/fashion-mnist')
OURS = 'finetune data ours --model coatnet_atto --epochs 9 --seed '
TIMMS = (
    'run train.py --model coatnet_atto --data-dir data --val-split val --num-classes 10 --in-chans 3 --device cpu -j 1 '
    '--mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --channels-last -b 32 --opt adamw --weight-decay 0.05 --sched-on-updates '
    '--scale 0.5 1 --color-jitter 0.2 --output . '
)
HEAD = '--pretrained --layer-decay 0.1 --layer-decay-no-opt-scale 0.5 --lr 1e-2 --warmup-epochs 0 --epochs 3 '
REST = '--initial-checkpoint head/last.pth.tar --layer-decay 0.75 --lr 5e-4 --warmup-epochs 1 --epochs 6 '


def write_images(name: str, folder: Path, count: int) -> None:
    """Write the first images of a part, with 64 pixels, into a folder for each class."""
    files = (SOURCE / f'{name}-{kind}-ubyte.gz' for kind in ('images-idx3', 'labels-idx1'))
    images, labels = (np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8) for file in files)
    for i, (image, label) in enumerate(zip(images[16:].reshape(-1, 28, 28)[:count], labels[8:], strict=False)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((64, 64)).save(folder / str(label) / f'{i}.png')


def measure(folder: Path, arguments: str, out: str) -> tuple[float, float]:
    """Run the command; return the best accuracy, and the median time of the last six epochs."""
    command = [sys.executable, '-um', 'coatnet_zoo', *arguments.split()]
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    with subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=-1, stderr=-2) as process:
        times = [time.perf_counter() for line in process.stdout if 'top1 ' in line or 'Current checkpoints' in line]
    rows = csv.DictReader((folder / out / 'summary.csv').open())
    return max(float(row.get('eval_top1') or row['top1']) for row in rows), np.median(np.diff(times[-6:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('script', help="timm's train.py")
    parser.add_argument('--seeds', type=int, default=3)
    args, results = parser.parse_args(), []
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            shutil.copy(args.script, folder / 'train.py')  # beside it, Python would find the timm of a checkout
            write_images('train', folder / 'data' / 'train', 1200)
            write_images('t10k', folder / 'data' / 'val', 1000)
            ours = measure(folder, f'{OURS}{seed}', 'ours')
            measure(folder, f'{TIMMS}{HEAD}--experiment head --seed {seed}', 'head')
            timms = measure(folder, f'{TIMMS}{REST}--experiment rest --seed {seed}', 'rest')
        results.append((*ours, *timms, ours[1] / timms[1]))
        print(f'seed {seed}: finetune %.1f %%, %.2f s; train.py %.1f %%, %.2f s; ratio %.3f' % results[-1], flush=True)
    print('mean', np.mean(results, 0).round(3), 'std', np.std(results, 0, ddof=1).round(3))


if __name__ == '__main__':
    main()
