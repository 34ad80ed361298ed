"""Compare `coatnet-zoo finetune` with timm's train.py of the same recipe, on Fashion-MNIST: accuracy, time of an epoch.

    python -m scripts.benchmarks.finetuning pytorch-image-models/train.py --seeds 3 --epochs 6

The images are those of Debian's package `dataset-fashion-mnist`, as PNG files of 64 pixels. Runs are made in turn, with
one thread and one process for loading. The time of an epoch is the median over the epochs that train everything.
"""

import argparse
import csv
import gzip
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SOURCE = Path('/usr/share/datasets/fashion-mnist')
OURS = '-m coatnet_zoo finetune data out{seed} --model coatnet_atto --epochs {epochs} --seed {seed}'
TIMMS = (
    '-m coatnet_zoo.run {script} --model coatnet_atto --data-dir data --val-split val --num-classes 10 --in-chans 3 '
    '--mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --device cpu --channels-last -j 1 -b 32 --opt adamw --weight-decay 0.05 '
    '--scale 0.5 1 --color-jitter 0.2 --sched-on-updates --seed {seed} --output . --experiment '
)
HEAD = '{seed}head --pretrained --layer-decay 0.1 --layer-decay-no-opt-scale 0.5 --lr 1e-2 --warmup-epochs 0 --epochs '
REST = (
    '{seed}rest --initial-checkpoint {seed}head/last.pth.tar --layer-decay 0.75 --lr 5e-4 --warmup-epochs 1 --epochs '
)


def write_images(name: str, folder: Path, count: int) -> None:
    """Write the first images of a part into a folder for each class."""
    images, labels = (
        np.frombuffer(gzip.decompress((SOURCE / f'{name}-{kind}-ubyte.gz').read_bytes()), np.uint8)[start:]
        for kind, start in (('images-idx3', 16), ('labels-idx1', 8))
    )
    for i, (image, label) in enumerate(zip(images.reshape(-1, 28, 28)[:count], labels, strict=False)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((64, 64)).save(folder / str(label) / f'{i}.png')


def measure(command: str, mark: str, summary: Path) -> tuple[list[float], list[float]]:
    """Run Python with arguments; return the accuracies of the epochs, and the times between lines with a mark."""
    env, times = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1'}, []
    with subprocess.Popen(
        [sys.executable, *command.split()], cwd=summary.parents[1], env=env, text=True, stdout=-1, stderr=-2
    ) as process:
        for line in process.stdout:
            times += [time.perf_counter()] * (mark in line)
    rows = list(csv.DictReader(summary.open()))
    return [float(row.get('eval_top1') or row['top1']) for row in rows], list(np.diff(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('script', type=Path, help="timm's train.py")
    for name, default in (('seeds', 3), ('epochs', 6), ('train', 1000), ('val', 1000)):
        parser.add_argument(f'--{name}', type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as parent:
        write_images('train', Path(parent, 'data', 'train'), args.train)
        write_images('t10k', Path(parent, 'data', 'val'), args.val)
        found: dict[str, list[list[float]]] = {'finetune': [], 'train.py': []}
        head = args.epochs // 3
        for seed in range(args.seeds):
            values = dict(seed=seed, epochs=args.epochs, script=args.script.resolve())
            ours, times = measure(OURS.format(**values), 'top1 ', Path(parent, f'out{seed}', 'summary.csv'))
            found['finetune'].append([max(ours), ours[-1], statistics.median(times[head:])])
            for part, epochs in ((HEAD, head), (REST, args.epochs - head)):
                folder = part.partition(' ')[0].format(**values)
                command = f'{TIMMS}{part}{epochs}'.format(**values)
                timms, times = measure(command, 'Current checkpoints', Path(parent, folder, 'summary.csv'))
            found['train.py'].append([max(timms), timms[-1], statistics.median(times)])
            for name, rows in found.items():
                best, last, seconds = rows[-1]
                print(
                    f'seed {seed}  {name:8}  best {best:.1f} %  last {last:.1f} %  {seconds:.2f} s an epoch', flush=True
                )
    ratio = statistics.median(a[2] / b[2] for a, b in zip(*found.values(), strict=True))
    for name, rows in found.items():
        best, last, seconds = zip(*rows, strict=True)
        print(
        print(name, rows)
        )
    print(f'an epoch of finetune takes {ratio:.3f} times that of train.py')


if __name__ == '__main__':
    main()
