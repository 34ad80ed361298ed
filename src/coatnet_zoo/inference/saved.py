"""Saving compiled models as a folder of machine code, and loading them without compiling.

The folder has the code of AOTInductor for the stem and for each stage, the weights of the head, and a record of the
model and of the machine.
"""

import dataclasses
import hashlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import CheckpointError, first_line, shown
from ..files import open_regular, write_folder
from ..hub import digest_of
from ..network import CoAtNet, is_unchanged
from ..registry import CoAtNetCfg
from ..slow import say_if_slow
from .frozen import Frozen
from .microbatch import MicroBatched
from .optimized import OptimizedCoAtNet
from .package import Package, write_package
from .quantize import named_parts

_RECORD, _HEAD, _FORMAT = 'optimized.json', 'head.safetensors', 2
# Bytes. Labels of 100,000 classes have about 5 MB.
_LARGEST_RECORD = 1 << 25
_LIKE_SHA256 = '0' * 64
# Integers and bfloat16 differ by rounding, from the module as it is, by up to 2.5 % of the largest output.
_WRONG = 0.05
_AROUND = ('norm', 'head')  # the modules that are saved as weights
_AGAIN = 'optimise the original model again, with coatnet_zoo.optimize_for_inference, and save that'


def save_optimized(model: OptimizedCoAtNet, path: str | os.PathLike) -> None:
    """Save a compiled or quantised model of `optimize_for_inference` as machine code for this machine.

    Compiling takes about a minute for `coatnet_1`, and needs a C++ compiler. The saved model takes any number of images
    of one size: the `img_size` of the model, or the size of the images that calibrated the model.

    Args:
        model: A model of `optimize_for_inference` with `compile=True` or `quantize='int8'`, on the CPU.
        path: The folder to write, which must not exist.

    Raises:
        TypeError: If the model is not from `optimize_for_inference`.
        ValueError: If the model is not compiled, was loaded, is not on the CPU, or has modules that were added to it.
        CheckpointError: If the folder exists or cannot be written, or if the compiler fails.
    """
    folder = Path(path)
    _check_savable(model)
    _check_new(folder)
    try:
        write_folder(folder, lambda new: _write(model, new), _check_new)
    except OSError as e:
        raise CheckpointError(f'{shown(folder)} cannot be written: {e.strerror or e}.') from e


def load_optimized(path: str | os.PathLike) -> OptimizedCoAtNet:
    """Load a model that `save_optimized` saved on a machine like this one, with this version of torch.

    The folder has machine code, which is executed. Load only folders that you or people you trust have saved.

    Args:
        path: The folder.

    Returns:
        A model as `optimize_for_inference` returns it, for images of one size.

    Raises:
        CheckpointError: If the folder cannot be read, is not from `save_optimized` or has changed since; or if it was
            saved with another version of torch, or on a machine with other instructions.
    """
    folder = Path(path)
    record = _read_record(folder)
    _check_machine(folder, record)
    try:
        for name, checksum in record['files'].items():
            if digest_of(folder / name, checksum) != checksum:
                raise CheckpointError(f'{name} in {shown(folder)} has changed since it was saved; {_AGAIN}.')
        return _load(folder, record)
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as e:
        if isinstance(e, CheckpointError):
            raise
        raise CheckpointError(f'{shown(folder)} cannot be loaded ({shown(first_line(e))}); {_AGAIN}.') from e


def _check_savable(model: nn.Module) -> None:
    if not isinstance(model, OptimizedCoAtNet):
        kind = type(model).__name__
        raise TypeError(f'save_optimized needs a model from optimize_for_inference, not {kind}; timm saves others.')
    if model.device.type != 'cpu':
        raise ValueError(f'save_optimized is for models on the CPU, not on {model.device}; move the original model.')
    parts = named_parts(model)
    for part in parts.values():
        inside = part.module if type(part) is MicroBatched else part
        if type(inside) is Package:
            raise ValueError(f'This model was loaded from {shown(inside.file.parent)}; copy that folder instead.')
        if type(inside) is not Frozen:
            raise ValueError(
                'save_optimized saves what takes long, and this model is not compiled; save the original model, and '
                "call optimize_for_inference after loading, or here with compile=True or quantize='int8'."
            )
    changed = [name for name, part in parts.items() if part.elements is None]
    # Below these modules are those that are compiled.
    outside = [(name, module) for name, module in model.named_modules() if name.count('.module') < 2]
    changed += [name or 'the model' for name, module in outside if not is_unchanged(module)]
    rebuilt = _rebuild(_describe(model))
    changed += [name for name in _AROUND if repr(getattr(rebuilt, name)) != repr(getattr(model, name))]
    if changed:
        raise ValueError(
            f'save_optimized cannot save what was changed in {changed[0]} (hooks, or modules of other classes); leave '
            'that out of the original model.'
        )


def _check_new(folder: Path) -> None:
    if folder.name in ('', '..'):
        raise CheckpointError(f"'{shown(folder)}' does not name a folder that can be made; give the new folder a name.")
    if os.path.lexists(folder):
        raise CheckpointError(f'{shown(folder)} exists already; choose another folder, or remove it yourself.')


def _machine() -> dict[str, Any]:
    """What machine code depends on: the version of torch, the system, and the instructions of the processor."""
    capabilities = getattr(torch.cpu, 'get_capabilities', dict)()  # torch 2.9 has no such function
    flags = {name: value for name, value in capabilities.items() if isinstance(value, (bool, str))}
    widest = torch.backends.cpu.get_cpu_capability()
    return {'torch': torch.__version__, 'system': f'{sys.platform} {platform.machine()}', 'vectors': widest, **flags}


def _check_machine(folder: Path, record: dict[str, Any]) -> None:
    """Raise a `CheckpointError` if a folder was saved with another torch, or on another kind of machine."""
    saved, here = record['machine'], _machine()
    for key in ('torch', *sorted(saved | here)):
        if saved.get(key) != here.get(key):
            raise CheckpointError(
                f'{shown(folder)} has machine code for {key} {shown(saved.get(key))}, and here is {key} '
                f'{here.get(key)}; {_AGAIN}.'
            )


def _describe(model: OptimizedCoAtNet) -> dict[str, Any]:
    """What rebuilds the model around its parts."""
    arguments = ('img_size', 'in_chans', 'num_classes', 'global_pool', 'drop_rate')
    return dict(
        cfg=dataclasses.asdict(model.cfg),
        arguments={name: getattr(model, name) for name in arguments},
        dtype=str(model.dtype).removeprefix('torch.'),
        image_shape=model.image_shape or (model.in_chans, *model.img_size),
        stages=len(model.stages),
        pretrained_cfg={k: v for k, v in getattr(model, 'pretrained_cfg', {}).items() if k != 'state_dict'},
    )


def _rebuild(described: dict[str, Any]) -> CoAtNet:
    """The model on the meta device, with ordinary parts."""
    arguments, dtype = described['arguments'], getattr(torch, described['dtype'])
    model = CoAtNet(CoAtNetCfg(**described['cfg']), **arguments, device='meta', dtype=dtype).eval()
    if described['stages'] < len(model.stages):
        model.prune_intermediate_layers([described['stages']])
        model.reset_classifier(arguments['num_classes'], arguments['global_pool'])
    return model.requires_grad_(False)


def _write(model: OptimizedCoAtNet, folder: Path) -> None:
    described, parts = _describe(model), {}
    images = torch.rand(2, *described['image_shape']).to(dtype=model.dtype, memory_format=torch.channels_last)
    for name, part in named_parts(model).items():
        frozen = part.module
        with say_if_slow(f'Compiling {frozen.name} of the model'), torch.no_grad():
            file = _compile(frozen, images, folder / f'{name}.pt2')
            parts[name] = dict(file=file.name, shape=tuple(images.shape[1:]), elements=part.elements)
            outputs = frozen.module(images)
            _check_code(Package(file, parts[name]['shape'], model.dtype), images, outputs)
        images = outputs
    weights = nn.ModuleDict({name: getattr(model, name) for name in _AROUND}).state_dict()
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / _HEAD)
    files = {file.name: digest_of(file, _LIKE_SHA256) for file in folder.iterdir()}
    record = dict(format=_FORMAT, machine=_machine(), files=files, parts=parts, **described)
    record = json.loads(json.dumps(record, default=str))
    (folder / _RECORD).write_text(json.dumps({**record, 'checksum': _checksum_of(record)}, indent=1), encoding='utf-8')


def _compile(part: Frozen, images: torch.Tensor, file: Path) -> Path:
    try:
        return write_package(part.module, images, file)
    except Exception as e:  # the compiler raises exceptions of many classes
        raise CheckpointError(
            f'{part.name} of the model cannot be compiled ({shown(first_line(e))}); the compiler needs g++ or another '
            'C++ compiler.'
        ) from e


def _check_code(package: Package, images: torch.Tensor, outputs: torch.Tensor) -> None:
    """Raise a `CheckpointError` if machine code is wrong, also for a number of images that it was not compiled with."""
    for count in (2, 1):
        difference = (package(images[:count]) - outputs[:count]).abs().max() / outputs.abs().max()
        if not difference <= _WRONG:
            raise CheckpointError(
                f'The compiler of torch {torch.__version__} made wrong code for this model ({package.file.stem} '
                f'differs by {difference:.0%}); nothing was saved.'
            )


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        with open_regular(folder / _RECORD) as file:
            record = json.loads(file.read(_LARGEST_RECORD))
    except (OSError, ValueError, RecursionError) as e:
        reason = getattr(e, 'strerror', None) or first_line(e)
        raise CheckpointError(f'{shown(folder)} is not a folder of save_optimized ({_RECORD}: {reason}).') from e
    if not isinstance(record, dict) or record.pop('checksum', None) != _checksum_of(record):
        raise CheckpointError(f'{_RECORD} in {shown(folder)} has changed since it was saved; {_AGAIN}.')
    if record['format'] != _FORMAT:
        raise CheckpointError(f'{shown(folder)} was saved by another version of coatnet-zoo; {_AGAIN}.')
    return record


def _load(folder: Path, record: dict[str, Any]) -> OptimizedCoAtNet:
    model = _rebuild(record)
    weights = load_file(folder / _HEAD)
    around = nn.ModuleDict({name: getattr(model, name) for name in _AROUND})
    around.load_state_dict(weights, assign=True)
    model = OptimizedCoAtNet.adopt(model, tuple(record['image_shape']))
    model.device = torch.device('cpu')
    for name, part in record['parts'].items():
        package = Package(folder.resolve() / part['file'], tuple(part['shape']), model.dtype)
        model.set_submodule(name, MicroBatched(package, part['elements'], equal=False).eval())
    model.streams = all(part.module.code.is_parallel for part in named_parts(model).values())
    model.pretrained_cfg = {k: tuple(v) if isinstance(v, list) else v for k, v in record['pretrained_cfg'].items()}
    model.default_cfg = model.pretrained_cfg
    return model


def _checksum_of(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()
