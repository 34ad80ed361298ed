"""`coatnet-zoo finetune` beside timm's train.py: a folder with `train` and `val`, or 2,200 images of Fashion-MNIST.

    python -m scripts.benchmarks.finetuning pytorch-image-models/train.py [FOLDER]

Runs alternate, with one thread and one process for loading; the time is that of the fastest epoch that trains all.
"""

import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ..studies.layouts_data import load

OURS = 'finetune data ours --model coatnet_atto --epochs 9 --seed '
TIMMS = (
    'run train.py --model coatnet_atto --data-dir data --val-split val --in-chans 3 --device cpu -j 1 '
    '--mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --channels-last -b 32 --opt adamw --weight-decay 0.05 --sched-on-updates '
    '--scale 0.5 1 --color-jitter 0.2 --output . --experiment timms --seed '
)
HEAD = ' --pretrained --layer-decay 0.1 --layer-decay-no-opt-scale 0.5 --lr 1e-2 --warmup-epochs 0 --epochs 3'
REST = ' --initial-checkpoint head/last.pth.tar --layer-decay 0.75 --lr 5e-4 --warmup-epochs 1 --epochs 6'


def measure(folder: Path, arguments: str, out: str) -> tuple[float, float]:
    """Run a command; return the best accuracy, and the time of the fastest of the last five epochs."""
    command, env = [sys.executable, '-um', 'coatnet_zoo', *arguments.split()], {**os.environ, 'OMP_NUM_THREADS': '1'}
    with subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=-1, stderr=-2) as process:
        times = [time.perf_counter() for line in process.stdout if 'top1 ' in line or 'Current checkpoints' in line]
    rows = csv.DictReader((folder / out / 'summary.csv').open())
    return max(float(row.get('eval_top1') or row['top1']) for row in rows), min(np.diff(times[-6:]))


def write_fashion_mnist(folder: Path) -> None:
    for part, count, (images, classes) in zip(('train', 'val'), (1200, 1000), load('fashion-mnist'), strict=True):
        for i, label in enumerate(classes[:count].tolist()):
            place = folder / part / str(label)
            place.mkdir(parents=True, exist_ok=True)
            pixels = ((images[i, 0] + 1) * 127.5).round().byte().numpy()
            Image.fromarray(pixels).resize((64, 64)).save(place / f'{i}.png')


def main() -> None:
    script, *photos = sys.argv[1:]
    results = []
    for seed in range(3):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            shutil.copy(script, folder / 'train.py')  # beside it, Python would find the timm of a checkout
            if photos:
                (folder / 'data').symlink_to(Path(photos[0]).resolve())
            else:
                write_fashion_mnist(folder / 'data')
            arguments = f'{TIMMS}{seed} --num-classes {len(os.listdir(folder / "data" / "train"))}'
            ours = measure(folder, f'{OURS}{seed}', 'ours')
            measure(folder, arguments + HEAD, 'timms')
            (folder / 'timms').rename(folder / 'head')
            timms = measure(folder, arguments + REST, 'timms')
        results.append((*ours, *timms, ours[1] / timms[1]))
        print(f'seed {seed}: finetune %.1f %%, %.2f s; train.py %.1f %%, %.2f s; ratio %.3f' % results[-1], flush=True)
    print('mean', np.mean(results, 0).round(3), 'std', np.std(results, 0, ddof=1).round(3))


if __name__ == '__main__':
    main()
