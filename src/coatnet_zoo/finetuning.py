"""Fine-tuning on a folder of photos: reading and splitting it, training with timm's parts, keeping the best epoch."""

import csv
import hashlib
import math
import os
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from timm.data import Mixup, create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ModelEmaV3, random_seed
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from coatnet_zoo_runtime import ImageError, opaque, open_image

from .errors import ExplainError, FinetuneError, HubError, first_line, shown
from .factory import load_model
from .files import write_folder
from .hub import CARD_FACTS, save_folder
from .images import data_config, files_in, require_matplotlib
from .network import CoAtNet

_CHECKPOINT, _PHOTOS, _SUMMARY = 'checkpoint.pt', 'photos.csv', 'summary.csv'
_OUT_OF_MEMORY = '(out of|not enough|allocate).*memory|ALLOC_FAILED'  # in errors of GPUs and CPUs
_AUGMENTATION = dict(scale=(0.5, 1), color_jitter=0.2, interpolation='random')


@dataclass
class Photo:
    """A row of photos.csv. The split is 'train' or 'val', or 'skipped' because of a problem."""

    file: Path
    label: str
    split: str
    problem: str = ''
    digest: str = ''  # of the pixels
    guess: str = ''
    probability: float | None = None


@dataclass
class PhotoSet(Dataset):
    """Upright RGB images with class numbers."""

    samples: list[tuple[Path, int]]
    transform: Any = None  # `timm.data.create_loader` sets it

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        file, target = self.samples[index]
        return self.transform(opaque(open_image(file), 3)), target


def finetune(
    photos: str | os.PathLike, out: str | os.PathLike, model: str | os.PathLike = 'coatnet_nano', *, epochs: int = 15,
    lr: float | None = None, img_size: int | None = None, batch_size: int = 32,
    val: float | str | os.PathLike | None = None, device: str | None = None, seed: int = 0, resume: bool = False,
    from_scratch: bool = False, ema: bool = False, mixup: float = 0.0, grad_checkpointing: bool = False,
) -> float:  # fmt: skip
    """Train a model on photos, and keep the epoch with the best accuracy on the validation photos.

    Args:
        photos: A folder for each class; or `train` and `val`, `valid`, `validation` or `test` with such folders.
        out: New folder, for `local-dir:`. From the first epoch on it has the best model so far.
        model: The start: a name, a folder, `hf-hub:ORG/NAME` or a checkpoint file.
        epochs: Number of epochs. Except from scratch, the first third trains the classifier alone.
        lr: Peak learning rate once the whole network trains. Default: 5e-4; from scratch 2e-3.
        img_size: Height and width in pixels. Default: the model's.
        batch_size: Photos per step.
        val: The share of each class, or the folder, for validation. Default: the folder in `photos`, else 0.2.
        device: Default: the accelerator, else the CPU.
        seed: Of the split, the new classifier, the order of the photos and the augmentation.
        resume: Continue after the last complete epoch in `out`; on a CPU, the result is that of an uninterrupted run.
        from_scratch: Start from random weights.
        ema: Keep a moving average of the weights.
        mixup: Alpha of mixup.
        grad_checkpointing: Save memory at the cost of time.

    Returns:
        The accuracy of the kept epoch in percent.

    Raises:
        FinetuneError: If photos or arguments cannot be used, `out` cannot be written, or memory runs out.
        CheckpointError: If the start cannot be read.
        HubError: If the start cannot be fetched.
    """
    root, out = Path(photos), Path(out)
    if os.path.lexists(out) and not (resume and (out / _PHOTOS).is_file()):
        raise FinetuneError(f'{shown(out)} already exists; choose another folder, or continue with --resume.')
    if out.resolve().is_relative_to(root.resolve()):
        raise FinetuneError(f'{shown(out)} is inside the folder of photos; choose another.')
    lr = (2e-3 if from_scratch else 5e-4) if lr is None else lr
    unit = 2 if mixup else 1  # pairs of photos are mixed
    if epochs < 1 or batch_size < unit or seed < 0 or lr <= 0 or mixup < 0:
        raise FinetuneError('Epochs, batch size (2 with mixup) and lr must be above 0, seed and mixup not below 0.')
    try:
        device = torch.empty(0, device=device or torch.accelerator.current_accelerator(True) or 'cpu').device
    except (RuntimeError, AssertionError) as e:
        raise FinetuneError(f'The device {shown(device)} cannot be used: {first_line(e)}') from e
    loading = dict(device=device, num_workers=max(1, min(4, (os.cpu_count() or 1) // 2)))
    found = _find_photos(root, val, seed, loading['num_workers'])
    train, held_out = ([photo for photo in found if photo.split == split] for split in ('train', 'val'))
    labels = list(dict.fromkeys(photo.label for photo in train))
    targets = {label: target for target, label in enumerate(labels)}
    sets = [PhotoSet([(photo.file, targets[photo.label]) for photo in part]) for part in (train, held_out)]
    problems = [photo.problem for photo in found if photo.problem]
    data = f'{len(train)} photos for training and {len(held_out)} for validation, of {len(labels)} classes'
    for line in (f'{data}; {len(problems)} skipped', *problems[:10], *['...'] * (len(problems) > 10)):
        _say(line)
    recipe = dict(
        model=os.fspath(model), epochs=epochs, lr=lr, img_size=img_size, seed=seed, from_scratch=from_scratch, ema=ema,
        mixup=mixup, batch_size=min(batch_size, len(train)) // unit * unit, grad_checkpointing=grad_checkpointing,
    )  # fmt: skip
    command = ['coatnet-zoo', 'finetune', root.resolve().name, out.name]
    for name, value in (recipe | {'val': val}).items():
        command += [f'--{name.replace("_", "-")}', *([] if value is True else [str(value)])] if value else []
    facts = {'data': f'{root.resolve().name}: {data}', 'source': f'`{shlex.join(command)}`'}
    digests = repr([(photo.digest, photo.label, photo.split) for photo in found])
    state = _state(out, recipe | {'photos': hashlib.sha256(digests.encode()).hexdigest()})
    random_seed(seed % 2**32)
    arguments = dict(num_classes=len(labels), in_chans=3, pretrained=not (from_scratch or state['rows']))
    try:
        network = load_model(recipe['model'], img_size, **arguments)
    except HubError as e:
        raise HubError(f'{e} Or use --model coatnet_atto, whose weights are bundled, or --from-scratch.') from e
    config = data_config(network, network.img_size)
    kept = f'{shown(out)} keeps the best epoch so far; continue with --resume.'

    def save(write: Callable[..., object], name: str, *content: Any) -> None:
        try:
            write_folder(out, lambda folder: write(folder / name, *content), lambda _: None)
        except (OSError, RuntimeError, UnicodeError, SafetensorError) as e:  # RuntimeError: torch.save, on full disks
            raise FinetuneError(f'{shown(out)} cannot be written: {first_line(e)}. {kept}') from e

    steps = len(train) // recipe['batch_size']
    try:
        if not state['rows']:
            save(_write_table, _PHOTOS, [vars(photo) for photo in found])
        with tqdm(total=epochs * steps, initial=len(state['rows']) * steps, disable=None) as bar:
            for result, row, logits in _epochs(network, sets, loading | config, recipe, state, bar):
                state['rows'].append(row)
                if is_best := row['top1'] > state['best']:
                    state |= {'best': row['top1'], 'guesses': logits.argmax(1)}
                    answers = zip(held_out, state['guesses'].tolist(), logits.softmax(1).amax(1).tolist(), strict=True)
                    for photo, guess, probability in answers:
                        photo.guess, photo.probability = labels[guess], round(probability, 4)
                    facts['accuracy'] = round(row['top1'], 2)
                    content = {'label_names': labels, 'pretrained_cfg': {'tag': 'finetuned'}, CARD_FACTS: facts}
                    best = deepcopy(result).to('cpu', memory_format=torch.contiguous_format)  # as safetensors needs it
                    save(partial(save_folder, best), '.', out.name, content, config)
                    save(_write_table, _PHOTOS, [vars(photo) for photo in found])
                save(partial(torch.save, state), _CHECKPOINT)
                save(_write_table, _SUMMARY, state['rows'])
                values = ', '.join(f'{name} {value:.4g}' for name, value in row.items())
                _say(f'{values}{" (best so far)" if is_best else ""}')
        save(_write_table, _SUMMARY, state['rows'])  # again, if a full disk stopped the last epoch here
        try:
            truth = torch.tensor([target for _, target in sets[1].samples])
            save(_draw, 'training.png', state['rows'], labels, truth, state['guesses'])
        except ExplainError as e:
            _say(str(e))
    except KeyboardInterrupt:
        _say(kept)
        raise
    except ImageError as e:  # a photo that changed since; an error of a worker process has a traceback before it
        raise FinetuneError(f'{str(e).rpartition("ImageError: ")[2].strip()} {kept}') from e
    except (OSError, RuntimeError, MemoryError) as e:
        if not isinstance(e, MemoryError) and not re.search(_OUT_OF_MEMORY, str(e)):
            raise
        half = recipe['batch_size'] // 2
        smaller = f'--batch-size {half}' if half >= unit else 'a smaller --img-size'
        raise FinetuneError(f'Out of memory ({first_line(e)}); --resume with {smaller} or --grad-checkpointing.') from e
    return state['best']


def _find_photos(root: Path, val: Any, seed: int, workers: int) -> list[Photo]:
    """Find, read and split the photos of a folder; see `finetune`. Equal photos are on the same side."""
    folders, share, photos, problems = {'train': root}, 0.0, [], []
    names = [name for name in next(os.walk(root), ('', []))[1] if not name.startswith('.')]
    inside = [root / name for name in ('val', 'valid', 'validation', 'test') if name in names and 'train' in names]
    if val is None:
        val = inside[0] if inside else 0.2
    try:
        share = float(val)
    except (TypeError, ValueError):
        folders['val'] = Path(val)
    if 'val' not in folders and not 0 < share < 1:
        raise FinetuneError(f'A share of {share:g} cannot be held out; give one such as 0.2, or a folder.')
    if 'train' in names and (inside or 'val' in folders or names == ['train']):
        folders['train'] = root / 'train'
    for split, folder in folders.items():
        if not os.path.isdir(folder):
            raise FinetuneError(f'There is no folder {shown(folder)}; give one with a folder of photos for each class.')
        for file in sorted(map(Path, files_in(str(folder), problems))):
            problem = f'{shown(file)} is in no class folder.' if file.parent == folder else ''
            photos.append(Photo(file, file.relative_to(folder).parts[0], split, problem))
    reader = DataLoader(photos, batch_size=None, collate_fn=_read, num_workers=workers)
    photos = list(tqdm(reader, 'reading', leave=False, disable=None))
    _split([photo for photo in photos if not photo.problem], share, seed)
    photos += [Photo(root, '', '', problem) for problem in problems]
    for photo in photos:
        photo.split = 'skipped' if photo.problem else photo.split
    train, held_out = ({photo.label for photo in photos if photo.split == split} for split in ('train', 'val'))
    if held_out - train:
        raise FinetuneError(f'The validation set has {shown(min(held_out - train))}, a class without training photos.')
    if len(train) < 2 or not held_out:
        example = next((f' {photo.problem}' for photo in photos if photo.problem), '')
        needs = 'needs two class folders or more, with two different photos or more in each'
        raise FinetuneError(f'{shown(root)} {needs}; it has {len(train)}.{example}')
    return photos


def _read(photo: Photo) -> Photo:
    """Add the digest, or the reason why there is none."""
    try:
        image = opaque(open_image(photo.file), 3)
        photo.digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    except ImageError as e:
        photo.problem = photo.problem or str(e)
    return photo


def _split(photos: Sequence[Photo], share: float, seed: int) -> None:
    """Skip photos of several classes, and training photos that are for validation, too; hold out a share of a class."""
    equal, classes = defaultdict(list), defaultdict(set)
    for photo in photos:
        equal[photo.digest].append(photo)
    for digest, copies in equal.items():
        labels, splits = ({getattr(photo, name) for photo in copies} for name in ('label', 'split'))
        for photo in copies:
            if others := labels - {photo.label}:
                photo.problem = f'{shown(photo.file)} is also in the class {shown(min(others))}.'
            elif photo.split == 'train' and 'val' in splits:
                photo.problem = f'{shown(photo.file)} is also in the validation set.'
            else:
                classes[photo.label].add(digest)
    for digests in classes.values() if share else ():
        # The order depends on the pixels and the seed, and not on names.
        order = sorted(digests, key=lambda digest: hashlib.sha256(f'{seed} {digest}'.encode()).digest())
        count = max(1, min(round(share * len(order)), len(order) - 1))
        for photo in (photo for digest in order[:count] for photo in equal[digest]):
            photo.split = 'val'
            if len(order) == 1:
                photo.problem = f'{shown(photo.file)} is the only photo of its class.'


def _state(out: Path, run: dict[str, Any]) -> dict[str, Any]:
    """The state after the last complete epoch of the same run, or before the first epoch."""
    file = out / _CHECKPOINT
    if not file.is_file():
        if (out / _SUMMARY).is_file():
            raise FinetuneError(f'{shown(out)} lacks {_CHECKPOINT}, so it cannot continue; train into another folder.')
        return {'run': run, 'rows': [], 'best': -1.0}
    try:
        state = torch.load(file, 'cpu', weights_only=True)
        changed = {name for name, value in run.items() if state['run'][name] != value}
    except Exception as e:  # a damaged file may raise anything
        raise FinetuneError(f'{shown(file)} cannot be read ({first_line(e)}); train into another folder.') from e
    if changed := sorted(changed - {'batch_size', 'grad_checkpointing'}):
        reason = f'{shown(file)} was made with different {", ".join(changed)}'
        raise FinetuneError(f'{reason}; use the same, or train into another folder.')
    return state


def _epochs(
    network: CoAtNet, sets: list[PhotoSet], loading: dict[str, Any], recipe: dict[str, Any], state: dict[str, Any],
    bar: tqdm,
) -> Iterator[tuple[CoAtNet, dict[str, float], torch.Tensor]]:  # fmt: skip
    """Train and validate; yield the model to keep, a row of summary.csv and the validation logits (N, num_classes).

    An epoch depends on its number and on `state`, which has what the epoch before left, and on nothing else.
    """
    device, epochs, scratch = loading['device'], recipe['epochs'], recipe['from_scratch']
    start, head_epochs = len(state['rows']), 0 if scratch else epochs // 3
    network.set_grad_checkpointing(recipe['grad_checkpointing'])
    network.to(device, memory_format=torch.channels_last)
    ema = ModelEmaV3(network, use_warmup=True) if recipe['ema'] else None
    model = ema.module if ema else network
    mixup = Mixup(recipe['mixup'], label_smoothing=0, num_classes=network.num_classes) if recipe['mixup'] else None
    load = partial(create_loader, batch_size=recipe['batch_size'])
    # Workers that live on would carry random states from epoch to epoch.
    loader = load(sets[0], is_training=True, persistent_workers=False, **loading | _AUGMENTATION)
    val_loader = load(sets[1], **loading)
    # GPUs without bfloat16 would emulate it.
    has_bfloat16 = device.type == 'cuda' and torch.cuda.is_bf16_supported(including_emulation=False)
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=has_bfloat16)
    if start:
        network.load_state_dict(state['network'])
        model.load_state_dict(state['model'])
    for epoch in range(start, epochs):
        if epoch in (start, head_epochs):
            is_head = epoch < head_epochs
            first, last, lr = (0, head_epochs, 1e-2) if is_head else (head_epochs, epochs, recipe['lr'])
            network.requires_grad_(not is_head)
            network.head.requires_grad_()
            decay = None if is_head or scratch else 0.75
            optimizer = create_optimizer_v2(network, 'adamw', lr, weight_decay=0.05, layer_decay=decay)
            phase = dict(num_epochs=last - first, warmup_epochs=int(not is_head and last - first > 1))
            scheduler, _ = create_scheduler_v2(optimizer, **phase, step_on_epochs=False, updates_per_epoch=len(loader))
            if epoch and epoch == start != head_epochs:
                optimizer.load_state_dict(state['optimizer'])
        random_seed((10_000 * recipe['seed'] + epoch) % 2**32)
        network.train()
        losses = AverageMeter()
        for step, (images, targets) in enumerate(loader, (epoch - first) * len(loader) + 1):
            images, targets = mixup(images, targets) if mixup else (images, targets)
            with autocast():
                logits = network(images.contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(logits, targets, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step_update(step)
            if ema:
                ema.update(network, step)
            losses.update(loss.item())
            if not math.isfinite(losses.val):
                raise FinetuneError(f'The loss is not finite in epoch {epoch + 1}; try --lr below {recipe["lr"]:g}.')
            bar.set_postfix_str(f'epoch {epoch + 1}, loss {losses.avg:.3f}', refresh=False)
            bar.update()
        model.eval()
        with torch.inference_mode(), autocast():
            answers = [(model(x.contiguous(memory_format=torch.channels_last)).float(), y) for x, y in val_loader]
        logits, targets = (torch.cat(tensors).cpu() for tensors in zip(*answers, strict=True))
        top1 = 100 * (logits.argmax(1) == targets).double().mean().item()
        bar.set_description(f'top1 {top1:.1f} %')
        val_loss = F.cross_entropy(logits, targets).item()
        state |= {'network': network.state_dict(), 'model': model.state_dict(), 'optimizer': optimizer.state_dict()}
        yield model, dict(epoch=epoch + 1, train_loss=losses.avg, val_loss=val_loss, top1=top1), logits


def _say(line: str) -> None:
    with tqdm.external_write_mode():
        print(line, flush=True)


def _write_table(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    with file.open('w', newline='', encoding='utf-8', errors='surrogateescape') as f:
        writer = csv.DictWriter(f, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _draw(
    file: Path, rows: Sequence[dict[str, Any]], labels: Sequence[str], targets: torch.Tensor, guesses: torch.Tensor
) -> None:
    """Draw losses and accuracy by epoch, and the number of photos by true and guessed class."""
    figure = require_matplotlib().Figure(figsize=(13, 6), layout='constrained')
    losses, matrix = figure.subplots(1, 2)
    accuracy = losses.twinx()
    for axes, key, colour in ((losses, 'train_loss', 'C0'), (losses, 'val_loss', 'C1'), (accuracy, 'top1', 'C2')):
        axes.plot([row['epoch'] for row in rows], [row[key] for row in rows], colour, label=key)
    losses.set(xlabel='epoch', ylabel='loss')
    losses.xaxis.get_major_locator().set_params(integer=True)
    accuracy.set_ylabel('top1 (%)')
    figure.legend(loc='outside lower left', ncols=3)
    counts = (len(labels) * targets + guesses).bincount(minlength=len(labels) ** 2).view(len(labels), -1)
    shares = counts / counts.sum(1, keepdim=True).clamp(1)
    matrix.imshow(shares.numpy(), cmap='Blues', vmin=0, vmax=1)
    matrix.set(xlabel='guessed', ylabel='true', title='Validation photos in the best epoch')
    if len(labels) <= 30:  # more would not be readable
        for true, guessed in counts.nonzero().tolist():
            colour = 'white' if shares[true, guessed] > 0.5 else 'black'
            matrix.text(guessed, true, str(counts[true, guessed].item()), ha='center', va='center', color=colour)
        matrix.set_xticks(range(len(labels)), labels, rotation=90, parse_math=False)
        matrix.set_yticks(range(len(labels)), labels, parse_math=False)
    figure.savefig(file, dpi=100)
