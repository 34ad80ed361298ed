"""Time and memory of global attention and of cheaper attention at growing image sizes.

    python -m scripts.studies.attention --out docs/attention

The command writes docs/attention.csv and docs/attention.png and prints a table. Every candidate is `coatnet_0` of
`impl='paper'` in eager mode on the CPU, with one image and without gradients; global attention is also measured after
`optimize_for_inference`. This process measures the times in turn. A new process for each candidate measures the memory:
the peak above the memory before the model was built.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
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


def build(candidate: str, name: str, size: int) -> nn.Module:
    """Build a candidate, in evaluation mode."""
    model = timm.create_model(name, impl='paper', img_size=size, **CANDIDATES[candidate]).eval()
    return optimize_for_inference(model) if candidate.startswith('optimised') else model


def memory(candidate: str, name: str, size: int, threads: int) -> dict:
    """Peak memory of one image through a candidate; for a child process."""
    return forward_memory(lambda: (build(candidate, name, size), torch.randn(1, 3, size, size)), threads)


@torch.no_grad()
def measure(name: str, size: int, rounds: int, threads: int) -> list[Row]:
    """One row for each candidate at one image size."""
    images = torch.randn(1, 3, size, size)
    calls = {}
    for candidate in CANDIDATES:
        model = build(candidate, name, size)

        def call(model=model) -> None:
            model(images)  # not returned, because candidates are different networks

        calls[candidate] = call
    rows = compare('attention', f'{size} px', calls, rounds)
    for row in rows:
        row.memory = in_child(memory, candidate=row.candidate, name=name, size=size, threads=threads)['memory']
    return rows


def table(rows: list[Row]) -> str:
    """A Markdown table with a line for each size and two columns for each candidate."""
    lines = [
        '| size | ' + ' | '.join(f'{c}, ms | {c}, MB' for c in CANDIDATES) + ' |',
        '|---|' + '---:|---:|' * len(CANDIDATES),
    ]
    for setting in dict.fromkeys(row.setting for row in rows):
        cells = [f'{1e3 * r.seconds:.0f} | {r.memory:.0f}' for r in rows if r.setting == setting]
        lines.append(f'| {setting} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def draw(rows: list[Row], file: Path) -> None:
    """Draw time and memory by image size, with a line for each candidate."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout='constrained')
    for candidate in CANDIDATES:
        own = [row for row in rows if row.candidate == candidate]
        sizes = [int(row.setting.split()[0]) for row in own]
        axes[0].plot(sizes, [row.seconds for row in own], marker='o', label=candidate)
        axes[1].plot(sizes, [row.memory for row in own], marker='o', label=candidate)
    for axis, label in zip(axes, ('seconds per image', 'peak memory, MB'), strict=True):
        axis.set(xlabel='image size, pixels', ylabel=label, xscale='log')
        axis.set_xticks(sizes, sizes)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.spines[['top', 'right']].set_visible(False)
    axes[0].set_yscale('log')
    axes[1].set_ylim(bottom=0)
    axes[0].legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='coatnet_0')
    parser.add_argument('--size', nargs='+', type=int, default=[224, 320, 448, 672, 896])
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--out', type=Path, required=True, help='path without suffix of the CSV file and the picture')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for size in args.size:
        rows += measure(args.model, size, args.rounds, args.threads)
        write(rows, args.out.with_suffix('.csv'))  # after every size, because the next may take long and fail
    draw(rows, args.out.with_suffix('.png'))
    print(table(rows))


if __name__ == '__main__':
    main()
