"""Recognising the code of a third-party checkpoint, and translating the checkpoint into the tensors of this package.

`tables.impls` lists the codes. Each code has one module of the form `CodeMapping`.
"""

import importlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from einops import EinopsError, rearrange

from ..errors import CheckpointError, shown
from ..registry import IMPLS, ThirdPartyCode
from .checkpoint import Checkpoint
from .structure import Structure

_CLASSIFIER = 'head.fc.'


@dataclass(frozen=True)
class Target:
    """Where a tensor of a third-party code goes.

    Attributes:
        name: Name of the tensor in this package; None if this package has no such tensor.
        layout: The change of axes as a pattern of `einops.rearrange`; None if the axes stay. `three` stands for q, k
            and v, `h` for heads and `d` for the width of a head.
        default: The tensor to use if the checkpoint lacks this tensor, or None.
    """

    name: str | None
    layout: str | None = None
    default: torch.Tensor | None = None


class CodeMapping(Protocol):
    """The functions that the module of a third-party code has."""

    def recognises(self, names: Collection[str]) -> bool:
        """Whether these are names of tensors of that code."""

    def infer_structure(self, checkpoint: Checkpoint) -> Structure:
        """Read the structure off a checkpoint, or raise a `CheckpointError` that names what does not fit."""

    def tensor_map(self, structure: Structure) -> dict[str, Target]:
        """Every tensor of that code for a structure, with where it goes."""


class CodeReader(Protocol):
    """The additional function of a module, if only this module can read the files of its code."""

    def read(self, path: Path) -> Checkpoint:
        """Read a file, or raise a `CheckpointError`."""


@runtime_checkable
class CodeHead(Protocol):
    """The additional function of a module, if people replace the classifier of its networks."""

    def prepare(self, checkpoint: Checkpoint, head: bool) -> Checkpoint:
        """Bring the classifier to the names of that code, or leave it out."""


@dataclass(frozen=True)
class Translation:
    """A third-party checkpoint in the names and layouts of this package.

    Attributes:
        impl: The implementation of the code that wrote the checkpoint.
        structure: The structure of the network, read from the tensors.
        tensors: Contiguous tensors by their names in this package. A tensor whose layout stays is not copied.
        third_party_names: The name of every tensor in the checkpoint, by its name in this package.
        left_out: The names of the tensors that the checkpoint has beside the network.
    """

    impl: str
    structure: Structure
    tensors: dict[str, torch.Tensor]
    third_party_names: dict[str, str]
    left_out: tuple[str, ...]

    @property
    def code(self) -> ThirdPartyCode:
        """The code that wrote the checkpoint."""
        return third_party_codes()[self.impl]


def third_party_codes() -> dict[str, ThirdPartyCode]:
    """The codes whose checkpoints can be translated, by implementation."""
    return {impl: row.code for impl, row in IMPLS.items() if row.code is not None}


def find_reader(path: Path) -> CodeReader | None:
    """The module of the code that reads files with this ending, or None."""
    return next(
        (importlib.import_module(c.mapping) for c in third_party_codes().values() if path.suffix in c.suffixes), None
    )


def recognised(names: Collection[str]) -> bool:
    """Whether names of tensors are those of a network of this package, of timm or of a third-party code."""
    if 'stem.conv1.weight' in names and any(name.startswith('stages.0.blocks.0.') for name in names):
        return True
    return any(mapping.recognises(names) for _, mapping in _mappings())


def _mappings() -> Iterator[tuple[str, CodeMapping]]:
    for impl, code in third_party_codes().items():
        yield impl, importlib.import_module(code.mapping)


def translate(checkpoint: Checkpoint, head: bool = True) -> Translation | None:
    """Translate a foreign checkpoint into the names and layouts of this package.

    Args:
        checkpoint: The checkpoint, from `read_checkpoint`.
        head: Keep the classifier.

    Returns:
        The translation; None if no third-party code wrote the checkpoint.

    Raises:
        CheckpointError: If a tensor is missing, does not belong to such a network or has an impossible shape.
    """
    for impl, mapping in _mappings():
        if mapping.recognises(checkpoint.tensors):
            if isinstance(mapping, CodeHead):
                checkpoint = mapping.prepare(checkpoint, head)
            structure = mapping.infer_structure(checkpoint)
            translation = _translate(checkpoint, impl, structure, mapping.tensor_map(structure))
            return translation if head else _headless(translation)
    return None


def _headless(translation: Translation) -> Translation:
    tensors = {k: v for k, v in translation.tensors.items() if not k.startswith(_CLASSIFIER)}
    structure = replace(translation.structure, num_classes=0, head_bias=None)
    return replace(translation, structure=structure, tensors=tensors)


def _translate(checkpoint: Checkpoint, impl: str, structure: Structure, targets: dict[str, Target]) -> Translation:
    # Files from before torch 0.4.1, and all files of Keras, have no counters of batches.
    defaults = {k: torch.tensor(0) for k in targets if k.endswith('num_batches_tracked')}
    defaults |= {k: target.default for k, target in targets.items() if target.default is not None}
    tensors = {**defaults, **checkpoint.tensors}
    _check_names(tensors, targets, impl)
    mapped: dict[str, torch.Tensor] = {}
    for name, target in targets.items():
        if target.name is not None:
            mapped[target.name] = _rearrange(name, tensors[name], target.layout, impl, structure.dim_head)
            if target.name.endswith('running_var'):
                mapped.setdefault(target.name.replace('running_var', 'num_batches_tracked'), torch.tensor(0))
    third_party_names = {target.name: name for name, target in targets.items() if target.name is not None}
    return Translation(impl, structure, mapped, third_party_names, tuple(checkpoint.beside))


def _rearrange(name: str, tensor: torch.Tensor, layout: str | None, impl: str, dim_head: int) -> torch.Tensor:
    if layout is None:
        return tensor
    axes = dict(three=3, d=dim_head) if 'three' in layout else {}
    try:
        return rearrange(tensor, layout, **axes).contiguous()
    except EinopsError as e:
        raise CheckpointError(
            f'The tensor {name} of the {impl} checkpoint has shape {tuple(tensor.shape)}, which is not of the form '
            f'{layout.partition(" ->")[0]!r}.'
        ) from e


def _check_names(present: Collection[str], expected: Collection[str], impl: str) -> None:
    surplus = sorted(set(present).difference(expected))
    if surplus:
        raise CheckpointError(f'The {impl} checkpoint has tensors that do not belong there: {_some(surplus)}.')
    missing = [name for name in expected if name not in present]
    if missing:
        raise CheckpointError(f'The {impl} checkpoint lacks tensors: {_some(missing)}.')


def _some(names: list[str]) -> str:
    more = f' and {len(names) - 4} more' if len(names) > 4 else ''
    return ', '.join(map(shown, names[:4])) + more
