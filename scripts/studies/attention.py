"""Time and memory of global attention and of cheaper attention at growing image sizes, for docs/attention.csv.

    python -m scripts.studies.attention

Every candidate is `coatnet_0` of `impl='paper'` in eager mode, with one image; global attention is also measured after
`optimize_for_inference`. A new process for each candidate measures the memory.
"""

import timm
import torch
from torch import nn

from coatnet_zoo import optimize_for_inference

from ..benchmarks.core import ROOT, THREADS, Row, compare, forward_memory, in_child, write
from ..benchmarks.inference import calls

CANDIDATES = {
    'global': {},
    'optimised global': {},
    'windows': dict(attn_window=14),
    'linear': dict(rel_attn='none', attn_type='linear'),
}
SIZES = (224, 320, 448, 672, 896)


def build(candidate: str, size: int) -> nn.Module:
    """Build a candidate, in evaluation mode."""
    model = timm.create_model('coatnet_0', impl='paper', img_size=size, **CANDIDATES[candidate]).eval()
    return optimize_for_inference(model) if candidate.startswith('optimised') else model


def memory(candidate: str, size: int) -> float:
    """Peak memory of one image through a candidate; for a child process."""
    return forward_memory(lambda: (build(candidate, size), torch.randn(1, 3, size, size)))


@torch.no_grad()
def measure(size: int, rounds: int) -> list[Row]:
    """One row for each candidate at one image size."""
    models, images = {name: build(name, size) for name in CANDIDATES}, torch.randn(1, 3, size, size)
    rows = compare('attention', f'{size} px', calls(models, images), rounds, tolerance=None)
    for row in rows:
        row.memory = in_child(memory, candidate=row.candidate, size=size)
    return rows


def main() -> None:
    torch.set_num_threads(THREADS)
    rows: list[Row] = []
    for size in SIZES:
        rows += measure(size, rounds=5)
        write(rows, ROOT / 'docs' / 'attention.csv')  # after every size, because the next may take long and fail


if __name__ == '__main__':
    main()
