"""Measure on a GPU: tests, inference, training, attention, and chinhsuanwu's own code.

    PYTHONPATH=src python -m scripts.benchmarks.gpu --coatnet-pytorch coatnet-pytorch --out gpu.csv

This runs in a clone, not installed, beside torch with CUDA, timm 1.0.31, einops, safetensors, click, tqdm and pytest.
Without a network, get what is missing by `pip download --no-deps -d wheels timm==1.0.31` elsewhere, and by
`pip install --no-index --no-deps wheels/*`.

Rows are written after each measurement; one that fails does not stop the others, and none starts after `--minutes`. The
same command then goes on with what the CSV file lacks. `--tiny` tries everything on a CPU, with small networks.
"""

import argparse
import dataclasses
import importlib
import itertools
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import timm
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention
from torch.optim import AdamW

from coatnet_zoo import optimize_for_inference
from coatnet_zoo.network import expand_rel_pos_table

from .core import ROOT, Row, compare, read, write
from .inference import calls, candidates, random_images, randomize
from .training import training

ROUNDS, BF16 = 3, torch.bfloat16
# Training, attention and chinhsuanwu's code take the first name, size and batch. `sides` are of feature maps, `stages`
# depths and widths of chinhsuanwu's code, `options` of timm's models and ours.
FULL = SimpleNamespace(device='cuda', names=['coatnet_1', 'coatnet_2'], sizes=[224, 384], batches=[128, 1], options={})
FULL.sides, FULL.heads, FULL.stages = [14, 24, 28], 12, ([2, 2, 6, 14, 2], [64, 96, 192, 384, 768])
SMALL = dict(stem_width=(8, 8), embed_dim=(8, 32, 64, 64), depths=(1, 1, 1, 1))
TINY = SimpleNamespace(device='cpu', names=['coatnet_1'], sizes=[64], batches=[2, 1], options=SMALL)
TINY.sides, TINY.heads, TINY.stages = [4, 6], 2, ([2, 1, 1, 1, 1], [8, 8, 32, 64, 64])


@torch.inference_mode()
def infer(s: SimpleNamespace, name: str, size: int, batch: int, compiled: bool, part: str, setting: str) -> list[Row]:
    """timm's model beside ours; memory includes the weights."""
    models = candidates(size, compiled, BF16, name=name, device=s.device, **s.options)
    rows = compare(part, setting, calls(models, random_images(batch, size).to(s.device, BF16)), ROUNDS, 0.1)
    for row in rows if s.device == 'cuda' else ():
        model = models[row.candidate]
        row.memory += sum(t.nbytes for t in (*model.parameters(), *model.buffers())) / 1e6
    return rows


def train(s: SimpleNamespace, mode: str, part: str, setting: str) -> list[Row]:
    """Steps with bfloat16 autocast; memory is that of activations and gradients."""
    what = s.names[0], s.batches[0], s.sizes[0], s.device, partial(AdamW, lr=1e-5, fused=True)
    rows = training(ROUNDS, mode, ['bf16 autocast'], *what, **s.options)
    return [dataclasses.replace(row, part=part, setting=setting) for row in rows]


@torch.inference_mode()
def attention(s: SimpleNamespace, side: int, part: str, setting: str) -> list[Row]:
    """Every back end with the bias of all pairs, as given and in rows of a multiple of 8; and the table looked up."""
    positions, span = side * side, 2 * side - 1
    q, k, v = torch.randn(3, s.batches[0], s.heads, positions, 32, device=s.device, dtype=BF16)
    table = torch.randn(span * span, s.heads, device=s.device, dtype=BF16)
    bias = expand_rel_pos_table(table, side, side)
    padded = F.pad(bias, (0, -positions % 8))[..., :positions]

    def fused(bias: torch.Tensor, *backends: SDPBackend) -> torch.Tensor:
        with sdpa_kernel([*backends]):
            return F.scaled_dot_product_attention(q, k, v, bias)

    def looked_up(score, image, head, i, j):
        return score + table[(i // side - j // side + side - 1) * span + i % side - j % side + side - 1, head]

    own = SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION
    ways: dict[str, Callable[[], torch.Tensor]] = {}
    for name, backends in {'chosen': own, **{each.name: (each,) for each in own}}.items():
        ways |= {name: partial(fused, bias, *backends), f'{name}, padded': partial(fused, padded, *backends)}
    ways['expanded in each call'] = lambda: fused(expand_rel_pos_table(table, side, side), *own)
    ways['flex'] = partial(torch.compile(flex_attention), q, k, v, looked_up)
    for name, call in [*ways.items()]:
        try:
            call()
        except Exception as error:  # flash attention takes no bias, for one
            print(f'{setting}, {name}: {str(error).splitlines()[0]}')
            del ways[name]
    return compare(part, setting, ways, ROUNDS, 0.05)


@torch.inference_mode()
def original(s: SimpleNamespace, checkout: Path, part: str, setting: str) -> list[Row]:
    """chinhsuanwu's own code, and its weights converted."""
    sys.path.insert(0, str(checkout))
    size = s.sizes[0]
    theirs = randomize(importlib.import_module('coatnet').CoAtNet((size, size), 3, *s.stages)).to(s.device)
    ours = timm.create_model(s.names[0], impl='chinhsuanwu', img_size=size, device=s.device, **s.options).eval()
    ours.load_state_dict(theirs.state_dict())
    optimised = optimize_for_inference(ours, BF16)
    ours.to(BF16, memory_format=torch.channels_last)
    models = {'coatnet-pytorch': theirs.to(BF16), 'as created': ours, 'optimised': optimised}
    return compare(part, setting, calls(models, random_images(s.batches[0], size).to(s.device, BF16)), ROUNDS, 0.1)


def plan(s: SimpleNamespace, checkout: Path | None) -> Iterator[tuple[str, str, Callable[[str, str], list[Row]]]]:
    """Part, setting and function of every measurement; those that compile networks come last."""
    batch = s.batches[0]
    networks = [*itertools.product(s.batches, s.sizes, s.names)]
    for n, size, name in networks:
        yield 'eager', f'{name}, {size} px, batch {n}', partial(infer, s, name, size, n, False)
    for side in s.sides:
        yield 'attention', f'{side * side} positions, batch {batch}', partial(attention, s, side)
    if checkout:
        yield 'chinhsuanwu', f'{s.sizes[0]} px, batch {batch}', partial(original, s, checkout)
    for mode in ('eager', 'checkpointing', 'compiled'):
        yield 'training', f'{mode}, batch {batch}', partial(train, s, mode)
    for n, size, name in networks:
        yield 'compiled', f'{name}, {size} px, batch {n}', partial(infer, s, name, size, n, True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--coatnet-pytorch', type=Path, help='checkout of chinhsuanwu/coatnet-pytorch')
    parser.add_argument('--out', type=Path, required=True, help='CSV file')
    parser.add_argument('--minutes', type=float, default=7)
    parser.add_argument('--tiny', action='store_true', help='small networks on the CPU')
    args = parser.parse_args()
    s = TINY if args.tiny else FULL
    end = time.monotonic() + 60 * args.minutes
    machine = torch.cuda.get_device_name() if s.device == 'cuda' else 'CPU'
    print(f'{machine}, torch {torch.__version__}, timm {timm.__version__}', flush=True)
    rows = read(args.out)
    if not rows:
        tests = [sys.executable, '-m', 'pytest', '-q', '-k', s.device, 'tests/network/test_precision.py']
        subprocess.run(tests, cwd=ROOT, check=False)
    done = {(row.part, row.setting) for row in rows}
    for part, setting, measure in plan(s, args.coatnet_pytorch):
        if (part, setting) in done:
            continue
        if time.monotonic() > end:
            print('no time left for', part, setting)
            continue
        torch._dynamo.reset()
        try:
            new = measure(part, setting)
        except Exception:
            print('failed:', part, setting, traceback.format_exc(), flush=True)
            continue
        for row in new:
            print(f'{row.line()}, {int(setting.split()[-1]) / row.seconds:,.0f} images/s', flush=True)
        rows += new
        write(rows, args.out)


if __name__ == '__main__':
    main()
