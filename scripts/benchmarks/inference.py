"""Inference of our coatnet_1, compared with timm's and, with a checkout, chinhsuanwu's coatnet_1."""

import copy
import functools
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import timm
import torch
import torch._inductor.config
from torch import nn

from coatnet_zoo import optimize_for_inference
from coatnet_zoo.network import multiply_adds

from .core import Row, compare, in_child, synchronize
from .memory import forward_memory
from .profiling import shares

TOLERANCES = {'fp32': 1e-4, 'bf16': 0.05, 'int8': 0.1}  # relative to the largest output, for random weights
SIZES = (224, 320, 448, 672, 896)


def randomize(model: nn.Module) -> nn.Module:
    """Set random statistics, so that batch norms have an effect."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return model.eval()


def pair(img_size: int = 224) -> tuple[nn.Module, nn.Module]:
    """timm's coatnet_1_rw_224, and our coatnet_1 with the same weights."""
    torch.manual_seed(0)
    theirs = randomize(timm.create_model('coatnet_1_rw_224', img_size=img_size))
    ours = timm.create_model('coatnet_1', img_size=img_size).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def load_peer(path: Path) -> ModuleType:
    """The module of a checkout of chinhsuanwu/coatnet-pytorch."""
    spec = importlib.util.spec_from_file_location('chinhsuanwu_coatnet', path / 'coatnet.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def freeze(model: nn.Module, device: str) -> Callable:
    """Compile a model with its weights as constants on the CPU, and as usual on the GPU."""
    compiled = torch.compile(model)

    def call(images: torch.Tensor) -> torch.Tensor:
        with torch._inductor.config.patch(freezing=device == 'cpu'):
            return compiled(images)

    return call


def timm_candidates(device: str, batch: int, compiled: bool) -> dict[str, Callable[[], torch.Tensor]]:
    """timm's coatnet_1_rw_224, and our model with the same weights. The first is timm in eager mode, channels last."""
    theirs, ours = (model.to(device) for model in pair())
    images = torch.randn(batch, 3, 224, 224, device=device)
    last = images.to(memory_format=torch.channels_last)
    half = last.bfloat16()
    theirs_last = copy.deepcopy(theirs).to(memory_format=torch.channels_last)
    theirs_half = copy.deepcopy(theirs_last).bfloat16()
    optimized = optimize_for_inference(ours)
    optimized_half = optimize_for_inference(ours, dtype=torch.bfloat16)
    candidates = {
        'timm eager fp32': lambda: theirs_last(last),
        'timm eager fp32 NCHW': lambda: theirs(images),
        'ours eager fp32': lambda: ours(last),
        'ours optimised fp32': lambda: optimized(last),
        'timm eager bf16': lambda: theirs_half(half),
        'ours optimised bf16': lambda: optimized_half(last),
    }
    if compiled:
        theirs_compiled = freeze(theirs_last, device)
        theirs_half_compiled = freeze(theirs_half, device)
        ours_compiled = optimize_for_inference(ours, compile=True)
        ours_half_compiled = optimize_for_inference(ours, dtype=torch.bfloat16, compile=True)
        candidates |= {
            'timm compiled fp32': lambda: theirs_compiled(last),
            'ours compiled fp32': lambda: ours_compiled(last),
            'timm compiled bf16': lambda: theirs_half_compiled(half),
            'ours compiled bf16': lambda: ours_half_compiled(last),
        }
        if device == 'cpu':
            integers = optimize_for_inference(ours, quantize='int8', calibration=images)
            candidates['ours compiled int8'] = lambda: integers(last)
    return candidates


def chinhsuanwu_candidates(
    peer: ModuleType, device: str, batch: int, compiled: bool
) -> dict[str, Callable[[], torch.Tensor]]:
    """chinhsuanwu's coatnet_1 as its users run it (eager, NCHW, fp32), and our model with the same weights."""
    torch.manual_seed(0)
    theirs = randomize(peer.coatnet_1()).to(device)
    ours = timm.create_model('coatnet_1', impl='chinhsuanwu').eval().to(device)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(batch, 3, 224, 224, device=device)
    optimized = optimize_for_inference(ours)
    candidates = {'chinhsuanwu eager fp32': lambda: theirs(images), 'ours optimised fp32': lambda: optimized(images)}
    if compiled:
        single = optimize_for_inference(ours, compile=True)
        half = optimize_for_inference(ours, dtype=torch.bfloat16, compile=True)
        candidates['ours compiled fp32'] = lambda: single(images)
        candidates['ours compiled bf16'] = lambda: half(images)
        if device == 'cpu':
            integers = optimize_for_inference(ours, quantize='int8', calibration=images)
            candidates['ours compiled int8'] = lambda: integers(images)
    return candidates


def _compare(part: str, batch: int, candidates: dict[str, Callable[[], torch.Tensor]], rounds: int) -> list[Row]:
    tolerances = {name: TOLERANCES[precision_of(name)] for name in candidates}
    theirs = [name for name in candidates if not name.startswith('ours')]
    references = {}
    for name in candidates:
        mode, precision = ('eager', 'compiled')['compiled' in name], precision_of(name)
        same = [other for other in theirs if other == f'{other.split()[0]} {mode} {precision}']
        if name.startswith('ours') and same:
            references[name] = same
        elif precision == 'int8':
            references[name] = theirs
    rows = compare(part, f'batch {batch}', candidates, rounds, tolerances, references)
    for row in rows:
        row.profile = shares(candidates[row.candidate])
    return rows


def precision_of(candidate: str) -> str:
    """The precision in the name of a candidate."""
    return next(precision for precision in TOLERANCES if precision in candidate)


@torch.inference_mode()
def inference(device: str, batches: list[int], rounds: int, peer: Path | None, compiled: bool = True) -> list[Row]:
    """Time all candidates at 224 pixels."""
    rows = []
    for batch in batches:
        torch._dynamo.reset()
        candidates = timm_candidates(device, batch, compiled)
        rows += _compare('inference, timm weights', batch, candidates, rounds)
        if peer is not None:
            candidates = chinhsuanwu_candidates(load_peer(peer), device, batch, compiled)
            rows += _compare('inference, chinhsuanwu weights', batch, candidates, rounds)
    return rows


@functools.cache
def operations(weights: str, batch: int) -> float:
    """Floating point operations of coatnet_1 at 224 pixels; a multiply-add counts as two."""
    return 2 * batch * multiply_adds(timm.create_model('coatnet_1', impl=weights, device='meta').eval())


@torch.inference_mode()
def matmul_peak(precision: str, device: str) -> float:
    """Operations per second of a large matrix product, the best of thirty."""
    size = 2048 if device == 'cpu' else 8192
    if precision == 'int8':
        a, b = (torch.randint(-128, 128, (size, size), dtype=torch.int8, device=device) for _ in range(2))
        product = torch._int_mm
    else:
        dtype = {'fp32': torch.float32, 'bf16': torch.bfloat16}[precision]
        a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
        product = torch.mm
    seconds = []
    for _ in range(30):
        synchronize()
        start = time.perf_counter()
        product(a, b)
        synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def growth_memory(name: str, size: int, threads: int, optimised: bool) -> dict:
    """Peak memory of one image through a model, as it is created or optimised; for a child process."""

    def build() -> tuple[nn.Module, torch.Tensor]:
        model = timm.create_model(name, img_size=size).eval().to(memory_format=torch.channels_last)
        images = torch.randn(1, 3, size, size).to(memory_format=torch.channels_last)
        return optimize_for_inference(model) if optimised else model, images

    return forward_memory(build, threads)


@torch.inference_mode()
def growth(rounds: int, threads: int) -> list[Row]:
    """Time and peak memory of one image at growing sizes on the CPU."""
    rows = []
    for size in SIZES:
        theirs, ours = (model.to(memory_format=torch.channels_last) for model in pair(size))
        optimized = optimize_for_inference(ours)
        images = torch.randn(1, 3, size, size).to(memory_format=torch.channels_last)
        candidates = {
            'timm eager fp32': lambda m=theirs, x=images: m(x),
            'ours eager fp32': lambda m=ours, x=images: m(x),
            'ours optimised fp32': lambda m=optimized, x=images: m(x),
        }
        measured = compare('growth', f'{size} px', candidates, rounds)
        for row in measured:
            model = dict(
                name='coatnet_1' if row.candidate.startswith('ours') else 'coatnet_1_rw_224',
                optimised='optimised' in row.candidate,
            )
            row.memory = in_child(growth_memory, size=size, threads=threads, **model)['memory']
        rows += measured
    return rows
