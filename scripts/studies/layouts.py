"""The paper's comparisons of layouts and of forms of relative attention, on a small scale.

    python -m scripts.studies.layouts --data fashion-mnist

The command trains ViT_REL, C-C-C-C, C-C-C-T, C-C-T-T and C-T-T-T of equal cost on 600, 6,000 and 60,000 images, C-C-T-T
with its relative bias after the softmax and without one, twice as wide networks, and networks of Fashion-MNIST further
on scikit-learn's digits. docs/layouts.csv has a row for each epoch. The same command resumes after an interruption.
"""

import argparse
import itertools
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import random_seed
from torch import nn
from tqdm import tqdm

from coatnet_zoo.files import write_file

from ..counting import multiply_adds, num_params
from ..train_digits import augment, measure
from .layouts_data import choose, load
from .layouts_picture import Epoch, Run, draw, read, summary, write

SIZE = 32  # of the images
# Widths of the stem and of the stages, chosen for the costs of C-C-T-T (see `check_costs`), and other options.
LAYOUTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    'ViT_REL': ((40,), (40, 40, 40), dict(block_types='TTT', depths=(1, 1, 1), patch_size=7, img_size=SIZE)),
    'CCCC': ((6, 8), (12, 28, 36, 40), {}),
    'CCCT': ((8, 8), (10, 24, 36, 40), {}),
    'CCTT': ((6, 8), (8, 32, 32, 40), {}),
    'CTTT': ((4, 8), (8, 24, 32, 40), dict(mlp_ratio=4.2)),
}
EPOCHS = {100: 50, 300: 60, 600: 50, 6_000: 8, 60_000: 2}  # by the number of images
BATCH, WORKERS, JOB = 64, 2, 6_000  # images, processes of one thread, images between two states
RATES = (2e-3, 4e-3, 8e-3, 1.6e-2)
RATE = 8e-3  # the best of RATES for C-C-T-T with 6,000 images, on other training images


def build(layout: str, rel_attn: str = 'pre', width: int = 1, num_classes: int = 10, device: str = 'cpu') -> nn.Module:
    """A model for 32 pixels: its stem does not halve the resolution, so that the stages have those of 64 pixels."""
    stem, dims, own = LAYOUTS[layout]
    options: dict[str, Any] = dict(block_types=layout, depths=(1, 1, 2, 1), img_size=2 * SIZE, impl='paper') | own
    options |= dict(stem_width=tuple(width * n for n in stem), embed_dim=tuple(width * n for n in dims), dim_head=8)
    options |= dict(rel_attn=rel_attn, num_classes=num_classes, in_chans=1, device=device)
    if layout == 'ViT_REL':
        return timm.create_model('vit_rel_tiny', **options)
    model = timm.create_model('coatnet_0', **options)
    model.stem.conv1.stride = (1, 1)
    return model


def check_costs() -> None:
    """Print the costs of the layouts. Raise a ValueError if one costs more than 5 % more or less than C-C-T-T."""
    for width, layout in itertools.product((1, 2), LAYOUTS):
        models = [build(name, width=width, device='meta').eval() for name in (layout, 'CCTT')]
        costs, others = [(num_params(model), multiply_adds(model, (SIZE, SIZE))) for model in models]
        print(f'{layout:8} {costs[0] / 1e3:7.1f} k parameters, {costs[1] / 1e6:7.2f} M multiply-adds')
        if any(abs(a / b - 1) > 0.05 for a, b in zip(costs, others, strict=True)):
            raise ValueError(f'{layout} costs more than 5 % more or less than CCTT at {SIZE} pixels.')


def plan(data: str) -> list[Run]:
    """All networks, in the order of training: what takes long comes late, and seed after seed."""
    sizes = [300] if data == 'digits' else [n for n in (600, 6_000, 60_000) if n <= len(load(data)[0][1])]
    if not sizes:
        raise SystemExit(f'{data} has fewer than 600 training images.')
    usual = Run(data, 'scratch', 'CCTT', 'pre', 1, sizes[len(sizes) // 2], 0, RATE)
    runs = [usual._replace(layout=name, images=n, seed=s) for n in sizes for s in range(3) for name in LAYOUTS]
    runs += [usual._replace(layout=name, images=sizes[0], seed=s) for s in (3, 4) for name in LAYOUTS]
    forms = [usual._replace(rel_attn=form, seed=s) for s in range(3) for form in ('post', 'none')]
    wide = [usual._replace(layout=name, images=sizes[0], seed=s, width=2) for s in range(5) for name in LAYOUTS]
    if data != 'fashion-mnist':
        return runs + forms + wide
    recipes = [usual._replace(part='recipe', lr=lr) for lr in RATES]
    kinds = itertools.product(range(5), ('CCTT', 'CTTT'), ('transfer', 'scratch'))
    digits = [usual._replace(data='digits', images=100, seed=s, layout=name, part=part) for s, name, part in kinds]
    return recipes + runs + digits + forms + wide


def pretrained(run: Run) -> Run:
    """The network of Fashion-MNIST that `run`, of the part `transfer`, starts from."""
    return run._replace(data='fashion-mnist', part='scratch', images=60_000, seed=run.seed % 3)


def state_file(run: Run, folder: Path) -> Path:
    """Where `train` keeps the rows, the weights and the optimizer of a network."""
    return folder / ('_'.join(map(str, run)).replace('/', '-') + '.pt')


def train(run: Run, folder: Path) -> list[Epoch]:
    """Train for the next epochs, about `JOB` images, and save the state in `folder`. Returns all epochs until then."""
    torch.set_num_threads(1)
    random_seed(run.seed)
    (x, y), held_out = choose(run.data, run.images, run.part == 'recipe', run.seed)
    model = build(run.layout, run.rel_attn, run.width, int(y.max()) + 1).to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt='adamw', lr=run.lr, weight_decay=0.05)
    updates, epochs, rows, file = -(-len(x) // BATCH), EPOCHS[run.images], [], state_file(run, folder)
    steps = dict(warmup_epochs=0.1 * epochs, step_on_epochs=False, updates_per_epoch=updates)
    scheduler, _ = create_scheduler_v2(optimizer, num_epochs=epochs, **steps)
    if file.exists():
        state = torch.load(file)
        rows = state['rows']
        model.load_state_dict(state['model'])
        optimizer.load_state_dict(state['optimizer'])
    elif run.part == 'transfer':
        weights = torch.load(state_file(pretrained(run), folder))['model']
        model.load_state_dict({k: v for k, v in weights.items() if not k.startswith('head.fc.')}, strict=False)
    for epoch in range(len(rows), min(epochs, len(rows) + max(1, JOB // run.images))):
        random_seed(1_000 * (run.seed + 1) + epoch)
        model.train()
        losses = []
        for update, batch in enumerate(torch.randperm(len(x)).split(BATCH), epoch * updates):
            scheduler.step_update(update)
            loss = F.cross_entropy(model(augment(x[batch])), y[batch])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        last = epoch + 1 == epochs
        measures = (*measure(model, x[:10_000], y[:10_000]), measure(model, *held_out)[1]) if last else ()
        rows.append((epoch, *(round(value, 4) for value in (sum(losses) / len(losses), *measures))))
    state = dict(rows=rows, model=model.state_dict(), optimizer=optimizer.state_dict())
    write_file(file, partial(torch.save, state))
    return [Epoch(run, *row) for row in rows]


def train_all(runs: list[Run], file: Path, folder: Path) -> list[Epoch]:
    """Train what the CSV file lacks, with weights in `folder`. Returns all rows of `runs`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {run: list(own) for run, own in itertools.groupby(read(file), lambda row: row.run)}
    todo = [run for run in runs if len(rows.get(run, [])) < EPOCHS[run.images]]
    needed = {*todo, *(pretrained(run) for run in todo if run.part == 'transfer')}
    lost = {run for run in needed if not state_file(run, folder).exists()}  # or not begun
    rows = {run: own for run, own in rows.items() if run not in lost}
    todo = [run for run in runs if run in todo or run in lost]
    images = sum(run.images * (EPOCHS[run.images] - len(rows.get(run, []))) for run in todo)
    progress = tqdm(total=images, unit=' images', unit_scale=True)
    jobs: dict[Future, Run] = {}
    with ProcessPoolExecutor(WORKERS, get_context('spawn')) as pool:
        while todo:
            ready = [r for r in todo if r not in jobs.values() and (r.part != 'transfer' or pretrained(r) not in todo)]
            jobs |= {pool.submit(train, run, folder): run for run in ready[: WORKERS - len(jobs)]}
            for job in wait(jobs, return_when=FIRST_COMPLETED).done:
                run = jobs.pop(job)
                before, rows[run] = len(rows.get(run, [])), job.result()
                write(itertools.chain(*rows.values()), file)
                progress.update((len(rows[run]) - before) * run.images)
                if len(rows[run]) == EPOCHS[run.images]:
                    todo.remove(run)
    return [row for run in runs for row in rows[run]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True, help='fashion-mnist, digits, or a folder with train/ and validation/')
    parser.add_argument('--out', type=Path, default='docs/layouts', help='CSV file and picture, without suffix')
    args = parser.parse_args()
    check_costs()
    rows = train_all(plan(args.data), args.out.with_suffix('.csv'), Path('runs/layouts'))
    draw(rows, list(LAYOUTS), args.out.with_suffix('.png'))
    print(summary(rows))


if __name__ == '__main__':
    main()
