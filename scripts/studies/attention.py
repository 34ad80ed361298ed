"""Time and memory of global attention and of cheaper attention at growing image sizes.

    python -m scripts.studies.attention --out docs/attention.csv

Every candidate is `coatnet_0` of `impl='paper'` in eager mode on two threads, with one image and without gradients;
global attention is also measured after `optimize_for_inference`. This process alternates the timings. A new process
for each candidate measures the memory: the peak above the memory before the model was built.
"""

import argparse
from pathlib import Path

import timm
import torch
from torch import nn

from coatnet_zoo import optimize_for_inference

from ..benchmarks.core import Row, compare, in_child, write
from ..benchmarks.memory import forward_memory

CANDIDATES = {
    'global': {},
    'optimised global': {},
    'windows': dict(attn_window=14),
    'linear': dict(rel_attn='none', attn_type='linear'),
}
THREADS = 2


def build(candidate: str, size: int) -> nn.Module:
    """Build a candidate, in evaluation mode."""
    model = timm.create_model('coatnet_0', impl='paper', img_size=size, **CANDIDATES[candidate]).eval()
    return optimize_for_inference(model) if candidate.startswith('optimised') else model


def memory(candidate: str, size: int) -> dict:
    """Peak memory of one image through a candidate; for a child process."""
    return forward_memory(lambda: (build(candidate, size), torch.randn(1, 3, size, size)), THREADS)


@torch.no_grad()
def measure(size: int, rounds: int) -> list[Row]:
    """One row for each candidate at one image size."""
    images = torch.randn(1, 3, size, size)
    calls = {}
    for candidate in CANDIDATES:
        model = build(candidate, size)

        def call(model=model) -> None:
            model(images)  # not returned, because candidates are different networks

        calls[candidate] = call
    rows = compare('attention', f'{size} px', calls, rounds)
    for row in rows:
        row.memory = in_child(memory, candidate=row.candidate, size=size)['memory']
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', nargs='+', type=int, default=[224, 320, 448, 672, 896])
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--out', type=Path, required=True, help='CSV file to write')
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    rows: list[Row] = []
    for size in args.size:
        rows += measure(size, args.rounds)
        write(rows, args.out)  # after every size, because the next may take long and fail


if __name__ == '__main__':
    main()
