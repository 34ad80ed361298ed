"""Third-party code: the interface of the modules in `adapters/`, and what they read a checkpoint into.

`registry.IMPLS` lists the codebases. The module of each codebase has the functions of `Adapter`.
"""

import importlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from ..errors import CheckpointError
from ..registry import IMPLS, SIZES, CoAtNetCfg, PerBlock, ThirdPartyCode, list_impls, resolve_cfg


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file."""

    tensors: Mapping[str, torch.Tensor]  # of the network, by name, without wrapper prefixes such as `module.`
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # settings by name, if in the file
    beside: Mapping[str, torch.Tensor] = field(default_factory=dict)  # the tensors beside the network, by name
    record: Mapping[str, Any] = field(default_factory=dict)  # the arguments of timm's train.py, if it wrote the file
    prefix: str = ''  # of the names in the file
    others: tuple[str, ...] = ()  # the keys and prefixes of other networks in the file
    assumed: str = ''  # of the network, as text
    labels: list[str] | None = None  # the names of the classes
    license: str = ''  # of the folder or the repository, if it states one


@dataclass(frozen=True)
class Target:
    """Where a tensor of third-party code goes."""

    name: str | None  # in this package; None if this package has no such tensor
    # A pattern of `einops.rearrange`, if axes change: `three` is q, k and v, `h` the heads, `d` the width of a head.
    layout: str | None = None
    default: torch.Tensor | None = None  # to use if the checkpoint lacks this tensor


@dataclass(frozen=True)
class Structure:
    """The structure of a network, read from the tensors of a checkpoint.

    A stage whose blocks differ has a tuple with one width for every block, and a string with one letter per block.
    """

    OF_CFG: ClassVar = ('stem_width', 'embed_dim', 'depths', 'block_types', 'num_heads', 'dim_head')

    stem_width: tuple[int, ...]  # of every convolution
    embed_dim: tuple[int | tuple[int, ...], ...]  # of every stage
    depths: tuple[int, ...]
    block_types: str | PerBlock  # C or T
    num_heads: int | None  # None if the width determines the heads
    dim_head: int
    in_chans: int
    num_classes: int  # 0 if there is no classifier
    img_size: tuple[int, int] | None  # height and width in pixels; None if no attention shows them
    expand_ratio: float = 4.0  # how many times wider MBConv and the feed-forward network are inside
    head_bias: bool | None = None  # None: as in the implementation

    def differences(self, cfg: CoAtNetCfg) -> dict[str, Any]:
        """The fields in which a configuration differs from this structure, with the values of this structure."""
        fields = {name: getattr(self, name) for name in self.OF_CFG}
        fields |= dict(conv_expand_ratio=self.expand_ratio, mlp_ratio=self.expand_ratio)
        if self.head_bias is not None:
            fields['head_bias'] = self.head_bias
        if [set(types) for types in cfg.stage_types] == [{kind} for kind in self.block_types]:
            del fields['block_types']
        return {name: value for name, value in fields.items() if getattr(cfg, name) != value}

    def as_registered(self, impl: str) -> tuple[str, dict[str, Any]]:
        """The closest registered size of an implementation, and the arguments that make it exactly this structure."""
        differences = {s: self.differences(resolve_cfg(s, impl)) for s in SIZES if impl in list_impls(s)}
        size = min(differences, key=lambda s: len(differences[s]))
        usual = dict(in_chans=3, num_classes=1000, img_size=(224, 224))
        ends = {name: getattr(self, name) for name in usual}
        return size, differences[size] | {k: v for k, v in ends.items() if v not in (None, usual[k])}


class Adapter(Protocol):
    """The functions of an adapter module. `read` and `prepare` are optional."""

    def recognises(self, names: Collection[str]) -> bool:
        """Whether these are names of tensors of that code."""

    def infer_structure(self, checkpoint: Checkpoint) -> Structure:
        """Read the structure off a checkpoint, or raise a `CheckpointError` that names what does not fit."""

    def tensor_map(self, structure: Structure) -> dict[str, Target]:
        """Every tensor of that code for a structure, with where it goes; counters of batches may be left out."""

    def read(self, path: Path) -> Checkpoint:
        """Read a file in a format of that code, or raise a `CheckpointError`."""

    def prepare(self, checkpoint: Checkpoint, head: bool) -> Checkpoint:
        """Give a replaced classifier the names of that code, or leave it out."""


def count_numbered(names: Collection[str], before: str, after: str) -> int:
    """Count the parts of a network that have numbers in the names of tensors, between two texts."""
    pattern = re.compile(rf'{re.escape(before)}([0-9]+){re.escape(after)}')
    return len({m[1] for name in names if (m := pattern.match(name))})


def shape_of(tensors: Mapping[str, torch.Tensor], key: str, ndim: int, impl: str) -> torch.Size:
    """The shape of a tensor of `ndim` dimensions, none of them empty; a `CheckpointError` for any other tensor."""
    if key not in tensors:
        raise CheckpointError(f'The {impl} checkpoint lacks the tensor {key}.')
    shape = tensors[key].shape
    if len(shape) != ndim or tensors[key].numel() == 0:
        raise CheckpointError(
            f'The tensor {key} of the {impl} checkpoint has shape {tuple(shape)}, not {ndim} dimensions of at least 1.'
        )
    return shape


def third_party_codes() -> dict[str, ThirdPartyCode]:
    """The codebases whose checkpoints can be translated, by implementation."""
    return {impl: row.code for impl, row in IMPLS.items() if row.code is not None}


def find_reader(start: bytes) -> Adapter | None:
    """The module of the code that reads files with these first bytes, or None."""
    codes = (code for code in third_party_codes().values() if code.magic and start.startswith(code.magic))
    return next((importlib.import_module(code.mapping) for code in codes), None)


def find_adapter(names: Collection[str]) -> tuple[str, Adapter] | None:
    """The implementation and the module of the code that has tensors of these names, or None."""
    adapters = ((impl, importlib.import_module(code.mapping)) for impl, code in third_party_codes().items())
    return next(((impl, adapter) for impl, adapter in adapters if adapter.recognises(names)), None)


def recognised(names: Collection[str]) -> bool:
    """Whether names of tensors are those of a network of this package, of timm or of third-party code."""
    own = 'stem.conv1.weight' in names and any(name.startswith('stages.0.blocks.0.') for name in names)
    return own or find_adapter(names) is not None
