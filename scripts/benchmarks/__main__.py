"""Compare this package with timm, chinhsuanwu's code and other engines, and print, write and draw the result.

    python -m scripts.benchmarks --coatnet-pytorch /path/to/coatnet-pytorch --out docs/performance

Results are ratios of calls made in turn in one run, with equal weights, images and threads, and with outputs that are
checked to be equal. `--part` selects parts, and `--device cuda` measures on a GPU. All parts of the default together
take half an hour on two CPU cores. Other parts are measured only when they are named:

    engines: ONNX Runtime and OpenVINO (extra `engines`)
    busy: the same while other processes keep as many cores busy as there are threads
    first: seconds from the start of Python to the first logits
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from .attention import attention
from .core import Row, write
from .engines import BUSY_BATCHES, engines, missing
from .first import first
from .inference import TOLERANCES, growth, inference, load_peer, matmul_peak, operations, precision_of
from .loading import converting, importing, loading
from .picture import draw
from .training import training

# By device: the parts that are measured if none is named, and the default batch sizes.
PARTS = {
    'cpu': ('inference', 'growth', 'attention', 'loading', 'training'),
    'cuda': ('inference', 'attention', 'training'),
}
ON_REQUEST = ('engines', 'busy', 'first')  # on the CPU only; they need the extra `engines`
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
    if 'engines' in args.part:
        yield engines('engines', args.batch, args.rounds, args.threads, not args.eager)
    if 'busy' in args.part:
        yield engines('busy', BUSY_BATCHES, args.rounds, args.threads, not args.eager, busy=args.threads)
    if 'first' in args.part:
        yield first(args.rounds, args.threads)
    if 'training' in args.part:
        yield training(args.device, args.rounds, not args.eager)


def share_of_peak(row: Row, peaks: dict[str, float]) -> float | None:
    """The share of the matmul peak that a row reaches; None if the row is not coatnet_1 on a quiet machine."""
    weights = re.match(r'inference, (\w+) weights|engines', row.part)
    if not weights:
        return None
    batch = int(re.search(r'batch (\d+)', row.setting)[1])
    return operations(weights[1] or 'timm', batch) / row.seconds / peaks[precision_of(row.candidate)]


def table(rows: list[Row], peaks: dict[str, float]) -> str:
    """The rows as a Markdown table, with the share of the matmul peak of the machine where the share is defined."""
    heads = 'part', 'setting', 'candidate', 'ms', '±', 'against', 'ratio', 'difference', 'peak MB', 'share of peak'
    lines = [f'| {" | ".join(heads)} | time goes to |', '|---|---|---|---:|---:|---|---:|---:|---:|---:|---|']
    for row in rows:
        share = share_of_peak(row, peaks)
        difference = '' if row.difference is None else f'{row.difference:.0e}'
        memory = '' if row.memory is None else f'{row.memory:.0f}'
        lines.append(
            f'| {row.part} | {row.setting} | {row.candidate} | {1e3 * row.seconds:.1f} | {100 * row.spread:.0f} % | '
            f'{row.reference} | {row.ratio:.2f} | {difference} | {memory} | '
            f'{"" if share is None else f"{100 * share:.0f} %"} | {row.profile or ""} |'
        )
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--part',
        nargs='+',
        choices=PARTS['cpu'] + ON_REQUEST,
        help='default: all but the last three',
    )
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
    if args.device != 'cpu' and not set(ON_REQUEST).isdisjoint(args.part or ()):
        parser.error(f'{", ".join(ON_REQUEST)} are measured on CPUs only')
    args.part = args.part or PARTS[args.device]
    args.batch = args.batch or BATCHES[args.device]
    if lack := missing(args.part):
        parser.error(lack)
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
