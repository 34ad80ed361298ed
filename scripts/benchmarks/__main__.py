"""Compare this package with timm and with other engines, and write docs/performance.csv and the tables of the page.

    python -m scripts.benchmarks --part inference sizes

Results are ratios of alternating calls, with equal weights, images and threads, and with outputs that are checked to
be equal. Rows of a part replace the rows of an earlier run. All parts together take half an hour on two idle cores;
`--device cuda` measures inference, sizes and training on a GPU. Parts:

    inference    batches at 224 pixels, in one process
    sizes        one image of 224 to 672 pixels, with the peak memory of a process
    engines      exported models beside timm's model and ours, each in a process of its own
    same engine  timm's network and ours in OpenVINO
    loading      building coatnet_5 from its file, and converting a checkpoint beside copying it
    starting     imports, the command's list and the first logits, in new processes
    training     a training step
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from .core import ROOT, Row, read, write
from .engines import engines, same_engine
from .figures import write_tables
from .inference import inference, sizes
from .loading import loading, starting
from .training import training

PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    'inference': lambda args: inference(args.device, args.batch, args.rounds),
    'sizes': lambda args: sizes(args.device, args.rounds, args.threads),
    'engines': lambda args: engines(args.batch, args.threads),
    'same engine': lambda args: same_engine(args.threads),
    'loading': lambda args: loading(args.rounds),
    'starting': lambda args: starting(args.rounds, args.threads),
    'training': lambda args: training(args.device, args.rounds),
}
BATCHES = {'cpu': [1, 8, 32], 'cuda': [1, 64, 256]}


def merge(old: list[Row], new: list[Row]) -> list[Row]:
    """Replace the parts of `old` that `new` has, in the order of the parts."""
    measured = {row.part for row in new}
    rows = [row for row in old if row.part not in measured] + new
    return sorted(rows, key=lambda row: [*PARTS].index(row.part))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--part', nargs='+', choices=PARTS, help='default: all that the device has')
    parser.add_argument('--device', choices=BATCHES, default='cpu')
    parser.add_argument('--batch', nargs='+', type=int, help='batch sizes; default: 1 8 32 on CPUs, 1 64 256 on GPUs')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--out', type=Path, default=ROOT / 'docs' / 'performance.csv', help='CSV file, beside the page')
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error('--rounds must be at least 2, because the tables show the spread')
    args.batch = args.batch or BATCHES[args.device]
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = False  # otherwise float32 would not be comparable
    rows = read(args.out) if args.out.exists() else []
    for part in args.part or (PARTS if args.device == 'cpu' else ('inference', 'sizes', 'training')):
        new = PARTS[part](args)
        print(*(row.line() for row in new), sep='\n', flush=True)
        rows = merge(rows, new)
        write(rows, args.out)  # after every part, because the next may take long and fail
    write_tables(rows, args.out.with_suffix('.md'))


if __name__ == '__main__':
    main()
