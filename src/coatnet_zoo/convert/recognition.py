"""Recognising the registered network that a checkpoint of this package or of timm belongs to, by names and shapes."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..registry import FINGERPRINTS, TIMM_NAMES, CoAtNetCfg, default_cfg, feature_sizes, num_offsets, resolve_cfg

TABLE = 'relative_position_bias_table'


@dataclass(frozen=True)
class Known:
    """A network that is registered here or in timm."""

    title: str  # for messages
    size: str | None  # None if this package has no such network
    impl: str = ''
    cfg: CoAtNetCfg | None = None
    args: dict[str, Any] = field(default_factory=dict)  # of timm.create_model, that make exactly this network
    reference: dict[str, Any] = field(default_factory=dict)  # arguments that make the network with the layers' names

    @property
    def call(self) -> str:
        """The call of `timm.create_model` that loads the checkpoint. A value of None becomes a placeholder."""
        values = {k: '(HEIGHT, WIDTH)' if v is None else repr(v) for k, v in self.args.items()}
        arguments = ', '.join([repr(self.size), f'impl={self.impl!r}', *(f'{k}={v}' for k, v in values.items())])
        return f'timm.create_model({arguments}, checkpoint_path=...)'


def is_timms(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether timm wrote a checkpoint: timm's Transformer blocks have 1x1 convolutions, ours have linear layers."""
    return any(name.endswith('.attn.qkv.weight') and t.ndim == 4 for name, t in tensors.items())


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """A hash of the names and shapes that make a network, 16 hexadecimal digits.

    The hash does not depend on classes, channels, the input size and counters of batches. A 1x1 convolution and a
    linear layer give the same hash.
    """

    def shape(name: str, tensor: torch.Tensor) -> tuple[int, ...]:
        if name == 'stem.conv1.weight':
            return tuple(tensor.shape[:1])
        if name.endswith(TABLE):
            return tuple(tensor.shape[1:])
        return tuple(tensor.shape[:2] if tensor.shape[2:] == (1, 1) else tensor.shape)

    body = sorted(
        f'{name} {shape(name, t)}'
        for name, t in tensors.items()
        if not name.startswith('head.fc.') and not name.endswith('num_batches_tracked')
    )
    return hashlib.sha256('\n'.join(body).encode(errors='surrogatepass')).hexdigest()[:16]


def identify(tensors: Mapping[str, torch.Tensor]) -> Known | None:
    """The registered network that a checkpoint belongs to, or None; names are without wrapper prefixes."""
    ours, theirs = FINGERPRINTS.get(fingerprint(tensors), (None, None))
    if not is_timms(tensors):
        known = ours and _known(f'{ours[0]} of impl={ours[1]!r}', tensors, *ours, {})
        return ours and replace(known, reference=dict(model_name=ours[0], impl=ours[1]))
    if theirs is None or (row := TIMM_NAMES[theirs]) is None:
        return theirs and Known(f"timm's {theirs}", None)
    title = f"timm's {theirs}, which is {row[0]} of impl={row[1]!r},"
    return replace(_known(title, tensors, *row), reference=dict(model_name=theirs))


def square_size(tensors: Mapping[str, torch.Tensor], patch_size: int | None = None) -> int | None:
    """The height of the square images that all position tables are for; None for no tables, or for other images."""
    tables = {int(name.split('.')[1]): len(table) for name, table in tensors.items() if name.endswith(TABLE)}
    if not tables:
        return None
    side = (math.isqrt(tables[min(tables)]) + 1) // 2 * (patch_size or 2 ** (min(tables) + 2))
    sizes = feature_sizes((side, side), max(tables) + 1, patch_size)
    return side if all(num_offsets(sizes[stage]) == count for stage, count in tables.items()) else None


def _known(title: str, tensors: Mapping[str, torch.Tensor], size: str, impl: str, fields: dict[str, Any]) -> Known:
    """A network of this package, with arguments for classes, channels and the size of images that are not the defaults.

    A size of None means position tables of images that are not square; `timm.create_model` ignores it.
    """
    default, cfg = default_cfg(size, impl), resolve_cfg(size, impl, **fields)
    in_chans, _, pixels = default['input_size']
    usual = dict(num_classes=default['num_classes'], in_chans=in_chans, img_size=pixels, head_bias=cfg.head_bias)
    classifier, stem = tensors.get('head.fc.weight'), tensors['stem.conv1.weight']
    found: dict[str, Any] = dict(num_classes=0 if classifier is None else len(classifier), in_chans=stem.shape[1])
    if classifier is not None:
        found['head_bias'] = 'head.fc.bias' in tensors
    if any(name.endswith(TABLE) for name in tensors):
        found['img_size'] = square_size(tensors, cfg.patch_size)
    return Known(title, size, impl, cfg, fields | {name: v for name, v in found.items() if v != usual[name]})
