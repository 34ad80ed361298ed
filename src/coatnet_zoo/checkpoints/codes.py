"""The codes whose checkpoints can be read besides this package's and timm's: one module each, all of one form."""

from collections.abc import Mapping
from typing import Protocol

import torch

from . import chinhsuanwu, keras_cv
from .structure import Structure


class Source(Protocol):
    """What a module that maps the checkpoints of some code has.

    Attributes:
        IMPL: The `impl` that has its details; also whose checkpoints they are, in errors.
        CODE: What that code is called.
        INTERPOLATION: How its evaluation resizes images.
        CROP_PCT: Share of the resized image that its evaluation crops.
    """

    IMPL: str
    CODE: str
    INTERPOLATION: str
    CROP_PCT: float

    def recognises(self, state_dict: Mapping[str, torch.Tensor]) -> bool:
        """Whether these names are those of its code."""

    def infer_structure(self, state_dict: Mapping[str, torch.Tensor]) -> Structure:
        """Read the structure off the tensors."""

    def key_map(self, structure: Structure) -> dict[str, str]:
        """Every tensor name of its code for a structure, with its name here."""

    def to_canonical(self, state_dict: Mapping[str, torch.Tensor], structure: Structure) -> dict[str, torch.Tensor]:
        """Map a checkpoint of its code to this package's names and layouts."""


SOURCES: tuple[Source, ...] = (chinhsuanwu, keras_cv)


def find_source(state_dict: Mapping[str, torch.Tensor]) -> Source | None:
    """The module that maps a checkpoint, or None if no such code has written it."""
    return next((source for source in SOURCES if source.recognises(state_dict)), None)
