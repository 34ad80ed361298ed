"""Training on a folder of photos, with timm's parts: first the classifier, then everything with layer decay."""

import hashlib
import math
import os
import re
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from timm.data import Mixup, create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, random_seed
from tqdm import tqdm

from coatnet_zoo_runtime import ImageError

from ..errors import ExplainError, FinetuneError, HubError, first_line, shown
from ..factory import load_model
from ..files import write_folder
from ..images import data_config
from ..network import CoAtNet
from .photos import PhotoSet, find_photos
from .report import draw_training, write_model, write_table

_CHECKPOINT, _PHOTOS = 'checkpoint.pt', 'photos.csv'
_AUGMENTATION = dict(scale=(0.5, 1), color_jitter=0.2, interpolation='random')


def finetune(
    photos: str | os.PathLike, out: str | os.PathLike, model: str = 'coatnet_nano', *, epochs: int = 15,
    lr: float | None = None, img_size: int | None = None, batch_size: int = 32,
    val: float | str | os.PathLike | None = None, device: str | None = None, seed: int = 0, resume: bool = False,
    from_scratch: bool = False, ema: bool = False, mixup: float = 0.0, grad_checkpointing: bool = False,
    progress: Callable[[str], object] = print,
) -> float:  # fmt: skip
    """Train a model on photos, and keep the epoch with the best accuracy on the validation photos.

    Args:
        photos: A folder for each class; or `train` and `val`, `valid`, `validation` or `test` with such folders.
        out: New folder, for `local-dir:`. From the first epoch on it has the best model so far.
        model: The start: a name, a folder, `hf-hub:ORG/NAME` or a checkpoint file.
        epochs: Number of epochs. Except from scratch, the first third trains the classifier alone.
        lr: Largest learning rate of the training of everything. Default: 5e-4; from scratch 2e-3.
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
        progress: A function that takes a line: what was read, then one for each epoch.

    Returns:
        The accuracy of the kept epoch in percent.

    Raises:
        FinetuneError: If the photos or arguments cannot be used, `out` exists or cannot be written, memory runs out, or
            the loss is not finite.
        CheckpointError: If the start cannot be read.
        HubError: If the start cannot be fetched.
    """
    root, out = Path(photos), Path(out)
    if os.path.lexists(out) and not (resume and (out / _PHOTOS).is_file()):
        raise FinetuneError(f'{shown(out)} already exists; choose another folder, or continue with --resume.')
    if out.resolve().is_relative_to(root.resolve()):
        raise FinetuneError(f'{shown(out)} is inside the folder of photos; choose another.')
    lr = (2e-3 if from_scratch else 5e-4) if lr is None else lr
    if epochs < 1 or batch_size < 1 + bool(mixup) or seed < 0 or lr <= 0 or mixup < 0:
        raise FinetuneError('Epochs, batch size (2 with mixup) and lr must be above 0, seed and mixup not below 0.')
    loading = dict(device=_usable(device), num_workers=max(1, min(4, (os.cpu_count() or 1) // 2)))
    files = find_photos(root, val, seed, loading['num_workers'])
    parts = [[p for p in files if p.part == part] for part in ('train', 'val')]
    labels = list(dict.fromkeys(p.label for p in parts[0]))
    sets = [PhotoSet([p.file for p in part], [labels.index(p.label) for p in part]) for part in parts]
    skipped = [p.problem for p in files if p.problem]
    data = f'{len(sets[0])} photos for training and {len(sets[1])} for validation, of {len(labels)} classes'
    for line in (f'{data}; {len(skipped)} skipped', *skipped[:10], *['...'] * (len(skipped) > 10)):
        progress(line)
    batch_size = min(batch_size, len(sets[0]))
    recipe = dict(
        model=model, epochs=epochs, lr=lr, img_size=img_size, seed=seed, ema=ema,
        batch_size=batch_size - bool(mixup) * batch_size % 2, mixup=mixup, from_scratch=from_scratch,
        grad_checkpointing=grad_checkpointing,
    )  # fmt: skip
    command = ['coatnet-zoo', 'finetune', root.resolve().name, out.name]
    for name, value in (recipe | {'val': val}).items():
        command += [f'--{name.replace("_", "-")}', *([] if value is True else [str(value)])] if value else []
    facts = dict(data=f'{root.resolve().name}: {data}', source=f'`{shlex.join(command)}`')
    recipe['photos'] = hashlib.sha256(repr([(p.digest, p.label, p.part) for p in files]).encode()).hexdigest()
    state = _state(out / _CHECKPOINT, recipe)
    random_seed(seed % 2**32)
    arguments = dict(num_classes=len(labels), in_chans=3, pretrained=not (state or from_scratch))
    try:
        network = load_model(model, img_size, **arguments)
    except HubError as e:
        raise HubError(f'{e} Or use --model coatnet_atto, whose weights are bundled, or --from-scratch.') from e
    config = data_config(network, network.img_size)
    rows, best = state.get('rows', []), state.get('best', {'top1': -1.0})
    kept = f'{shown(out)} has the best complete epoch, if there is one; continue with --resume.'

    def put(write: Callable[[Path], object]) -> None:
        try:
            write_folder(out, write, lambda _: None)
        except (OSError, RuntimeError, SafetensorError) as e:  # torch.save raises a RuntimeError on a full disk
            raise FinetuneError(f'{shown(out)} cannot be written: {first_line(e)}. {kept}') from e

    try:
        if not state:
            put(partial(write_table, name=_PHOTOS, rows=[vars(photo) for photo in files]))
        for result, row, logits, after in _epochs(network, sets, recipe, loading | config, state):
            rows.append(row)
            if is_best := row['top1'] > best['top1']:
                best = row | {'guesses': logits.argmax(1)}
                for photo, probs in zip(parts[1], logits.softmax(1), strict=True):
                    photo.guess, photo.probability = labels[probs.argmax()], round(probs.max().item(), 4)
                facts['accuracy'] = round(row['top1'], 2)
                put(partial(write_model, name=out.name, model=result, labels=labels, config=config, facts=facts))
                put(partial(write_table, name=_PHOTOS, rows=[vars(photo) for photo in files]))
            content = {**after, 'recipe': recipe, 'rows': rows, 'best': best}
            put(lambda folder, content=content: torch.save(content, folder / _CHECKPOINT))
            put(partial(write_table, name='summary.csv', rows=rows))
            with tqdm.external_write_mode():
                values = ', '.join(f'{name} {value:.4g}' for name, value in row.items())
                progress(f'{values}{" (best so far)" if is_best else ""}')
        pairs = len(labels) * torch.tensor(sets[1].targets) + best['guesses']
        counts = pairs.bincount(minlength=len(labels) ** 2).reshape(len(labels), -1)
        try:
            put(partial(draw_training, rows=rows, labels=labels, counts=counts.numpy()))
        except ExplainError as e:
            progress(str(e))
    except KeyboardInterrupt:
        progress(kept)
        raise
    except ImageError as e:  # a photo that changed since; an error of a worker process has a traceback before it
        raise FinetuneError(f'{str(e).rpartition("ImageError: ")[2].strip()} {kept}') from e
    except (OSError, RuntimeError, MemoryError) as e:
        if not isinstance(e, MemoryError) and not re.search('(out of|allocate) memory|ALLOC_FAILED', str(e)):
            raise
        smaller = f'--batch-size {batch_size // 2}' if batch_size // 2 > bool(mixup) else 'a smaller --img-size'
        raise FinetuneError(f'Out of memory ({first_line(e)}); try {smaller}, or --grad-checkpointing.') from e
    return best['top1']


def _epochs(
    network: CoAtNet, sets: list[PhotoSet], recipe: dict[str, Any], loading: dict[str, Any], state: dict[str, Any]
) -> Iterator[tuple[CoAtNet, dict[str, float], torch.Tensor, dict[str, Any]]]:
    """Train and validate. An epoch depends on its number and the state after the epoch before, and on nothing else.

    After each epoch come the model to keep, the losses and the accuracy (percent), the logits of the validation photos
    (N, num_classes), and the state.
    """
    device, epochs, scratch = loading['device'], recipe['epochs'], recipe['from_scratch']
    start, head = state.get('epoch', 0), 0 if scratch else epochs // 3
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
    if state:
        network.load_state_dict(state['network'])
        model.load_state_dict(state['model'])
    bar = tqdm(total=epochs * len(loader), initial=start * len(loader), disable=None)
    for epoch in range(start, epochs):
        if epoch in (start, head):
            first, last, lr, decay = (0, head, 1e-2, 0.1) if epoch < head else (head, epochs, recipe['lr'], 0.75)
            only_last = 0.5 if epoch < head else None  # the smallest share of the rate with which a layer is trained
            rates = dict(lr=lr, layer_decay=None if scratch else decay, layer_decay_no_opt_scale=only_last)
            optimizer = create_optimizer_v2(network.requires_grad_(), 'adamw', weight_decay=0.05, **rates)
            phase = dict(num_epochs=last - first, warmup_epochs=int(epoch >= head and last - first > 1))
            scheduler, _ = create_scheduler_v2(optimizer, **phase, step_on_epochs=False, updates_per_epoch=len(loader))
            if state and epoch == start != head:
                optimizer.load_state_dict(state['optimizer'])
        random_seed((10_000 * recipe['seed'] + epoch) % 2**32)
        network.train()
        losses: list[float] = []
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
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise FinetuneError(f'The loss is not finite in epoch {epoch + 1}; try --lr below {recipe["lr"]:g}.')
            bar.set_postfix_str(f'epoch {epoch + 1}, loss {sum(losses) / len(losses):.3f}', refresh=False)
            bar.update()
        model.eval()
        with torch.inference_mode(), autocast():
            batches = [model(images.contiguous(memory_format=torch.channels_last)) for images, _ in val_loader]
        logits, targets = torch.cat(batches).float().cpu(), torch.tensor(sets[1].targets)
        top1 = 100 * (logits.argmax(1) == targets).double().mean().item()
        bar.set_description(f'top1 {top1:.1f} %')
        val_loss = F.cross_entropy(logits, targets).item()
        row = dict(epoch=epoch + 1, train_loss=sum(losses) / len(losses), val_loss=val_loss, top1=top1)
        parts = {'network': network, 'model': model, 'optimizer': optimizer}
        yield model, row, logits, {'epoch': epoch + 1} | {name: part.state_dict() for name, part in parts.items()}


def _usable(device: str | None) -> torch.device:
    """The device, or else the accelerator, or else the CPU."""
    try:
        return torch.empty(0, device=device or torch.accelerator.current_accelerator(True) or 'cpu').device
    except (RuntimeError, AssertionError) as e:
        raise FinetuneError(f'The device {shown(device)} cannot be used: {first_line(e)}') from e


def _state(file: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """The state after the last complete epoch, if there is one."""
    try:
        state = torch.load(file, 'cpu', weights_only=True) if file.is_file() else {}
        changed = [name for name, value in recipe.items() if state and state['recipe'][name] != value]
    except Exception as e:  # a damaged file may raise anything
        raise FinetuneError(f'{shown(file)} cannot be read ({first_line(e)}); train into another folder.') from e
    if changed:
        reason = f'{shown(file)} was made with different {", ".join(changed)}'
        raise FinetuneError(f'{reason}; use the same, or train into another folder.')
    return state
