"""Compare this package with timm and chinhsuanwu's code, and print, write and draw the result.

    python -m scripts.benchmarks --coatnet-pytorch /path/to/coatnet-pytorch --out docs/performance

Results are ratios of calls made in turn in one run, with equal weights, images and threads, and with outputs that are
checked to be equal. `--part` selects parts, and `--device cuda` measures on a GPU. All parts together take half an hour
on two CPU cores.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from .attention import attention
from .core import Row, write
from .inference import TOLERANCES, growth, inference, load_peer, matmul_peak, operations, precision_of
from .loading import converting, importing, loading
from .picture import draw
from .training import training

# By device: the parts that are measured, and the default batch sizes.
PARTS = {
    'cpu': ('inference', 'growth', 'attention', 'loading', 'training'),
    'cuda': ('inference', 'attention', 'training'),
}
BATCHES = {'cpu': [8], 'cuda': [64, 256]}


def measure(args: argparse.Namespace) -> Iterator[list[Row]]:
    """Run the requested parts, one by one."""
    if 'inference' in args.part:
        yield inference(args.device, args.batch, args.rounds, args.coatnet_pytorch, not args.eager)
    if 'growth' in args.part:
        yield growth(args.rounds, args.threads)
    if 'attention' in args.part:
        yield attention(args.device, args.batch, args.rounds, not args.eager)
    if 'loading' in args.part:
        yield loading(args.rounds)
        if args.coatnet_pytorch:
            yield converting(load_peer(args.coatnet_pytorch), args.rounds)
        theirs, ours = importing(args.rounds)
        print(f'import timm takes {theirs:.0f} ms; import coatnet_zoo adds {ours:.0f} ms')
    if 'training' in args.part:
        yield training(args.device, args.rounds, not args.eager)


def table(rows: list[Row], peaks: dict[str, float]) -> str:
    """The rows as a Markdown table, with the share of the matmul peak of the machine where the share is defined."""
    heads = 'part', 'setting', 'candidate', 'ms', '±', 'against', 'ratio', 'difference', 'peak MB', 'share of peak'
    lines = [f'| {" | ".join(heads)} | time goes to |', '|---|---|---|---:|---:|---|---:|---:|---:|---:|---|']
    for row in rows:
        share = ''
        if row.part.startswith('inference'):
            weights, batch = re.match(r'inference, (\w+) weights, batch (\d+)', f'{row.part}, {row.setting}').groups()
            precision = precision_of(row.candidate)
            share = f'{100 * operations(weights, int(batch)) / row.seconds / peaks[precision]:.0f} %'
        difference = '' if row.difference is None else f'{row.difference:.0e}'
        memory = '' if row.memory is None else f'{row.memory:.0f}'
        lines.append(
            f'| {row.part} | {row.setting} | {row.candidate} | {1e3 * row.seconds:.1f} | {100 * row.spread:.0f} % | '
            f'{row.reference} | {row.ratio:.2f} | {difference} | {memory} | {share} | '
            f'{row.profile or ""} |'
        )
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--part', nargs='+', choices=PARTS['cpu'], help='default: all parts of the device')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--batch', nargs='+', type=int, help='batch sizes; default: 8 on CPUs, 64 256 on GPUs')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--eager', action='store_true', help='leave out compiled candidates, which take minutes')
    parser.add_argument('--coatnet-pytorch', type=Path, help='checkout of chinhsuanwu/coatnet-pytorch')
    parser.add_argument('--out', type=Path, required=True, help='path without suffix of the CSV file and the picture')
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error('--rounds must be at least 2, because the table shows the spread')
    args.part = args.part or PARTS[args.device]
    args.batch = args.batch or BATCHES[args.device]
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = False  # otherwise float32 would not be comparable
    args.out.parent.mkdir(parents=True, exist_ok=True)
    peaks = {precision: matmul_peak(precision, args.device) for precision in TOLERANCES}
    rows: list[Row] = []
    for part in measure(args):
        rows += part
        write(rows, args.out.with_suffix('.csv'))  # after every part, because the next may take long and fail
    draw(rows, args.out.with_suffix('.png'))
    print('matmul peak: ' + ', '.join(f'{peak / 1e9:.0f} GOP/s in {name}' for name, peak in peaks.items()))
    print(table(rows, peaks))


if __name__ == '__main__':
    main()
