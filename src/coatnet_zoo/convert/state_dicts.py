"""Finding the state dict in the content of a checkpoint file, under the keys that training scripts use."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import CheckpointError, shown
from .checkpoint import Checkpoint
from .pickles import Unread
from .plain import not_plain
from .prefixes import find_networks, split

_STATE_DICT_KEYS = ('state_dict', 'model_state_dict', 'model', 'net', 'network', 'weights')
_EMA_KEYS = ('state_dict_ema', 'model_ema', 'ema_state_dict', 'model_ema_state_dict', 'ema', 'ema_model')
# The largest depth of nested wrappers, e.g. {'ema': {'state_dict': ...}}.
_MAX_DEPTH = 8
# What tools store next to weights: the number of averaged models, and thop's counts for every module.
_COUNTERS = ('n_averaged', 'total_ops', 'total_params')
# What compiling, sharding and recomputing put into the names of the layers that they wrap.
_WRAPPERS = re.compile(r'\b_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.')


def find_network(
    content: Any,
    ema: bool | None = False,
    name: str = 'The checkpoint',
    key: str | None = None,
    prefix: str | None = None,
) -> Checkpoint:
    """Find the network in the content of a checkpoint file, without the prefix that all its names have.

    Args:
        content: A state dict, or a dictionary that has a state dict under some key.
        ema: Take the moving average of the weights; None: if there is one under one of the usual keys.
        name: Name of the checkpoint in errors.
        key: The key of the state dict. Default: one of the usual keys, or the only key that has a state dict.
        prefix: The prefix of the names of the network, with or without a dot at the end. Default: the only prefix under
            which a known network is.

    Returns:
        The tensors of the network, and the tensors beside it.

    Raises:
        CheckpointError: If there is no state dict, or more than one and the arguments do not choose one.
    """
    if isinstance(content, (list, tuple)) and any(isinstance(part, Mapping) for part in content):
        content = {str(number): part for number, part in enumerate(content)}
    if key is not None:
        content = _under(content, key, name)
    if ema is None:
        ema = isinstance(content, Mapping) and _wrapped(content, _EMA_KEYS) is not None
    content, left = _unwrap(content, ema, name)
    tensors = _tensors(content, name)
    network, beside = split(tensors, prefix, left, name)
    return Checkpoint(network, beside={k: v for k, v in beside.items() if not_plain(v) is None})


def _tensors(content: Mapping[Any, Any], name: str) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for key, value in content.items():
        if isinstance(value, Unread) and '._rebuild_' in value.name:
            raise CheckpointError(
                f'{name} has {shown(key)} as a tensor of another kind ({shown(value.name)}); save plain tensors of '
                'real numbers instead.'
            )
        if isinstance(key, str) and isinstance(value, torch.Tensor) and key.rpartition('.')[2] not in _COUNTERS:
            key = _WRAPPERS.sub('', key)
            if key in tensors:
                raise CheckpointError(f'{name} has {shown(key)} more than once, with and without a wrapper of a layer.')
            tensors[key] = value
    return tensors


def _under(content: Any, key: str, name: str) -> Mapping[Any, Any]:
    if not isinstance(content, Mapping):
        raise CheckpointError(f'{name} holds a {type(content).__name__}, which has no key {shown(key)}.')
    if not isinstance(content.get(key), Mapping) or _is_object(content[key]):
        raise CheckpointError(f'{name} has no state dict under {shown(key)}; its keys are {_keys(content)}.')
    return content[key]


def _unwrap(content: Any, ema: bool, name: str) -> tuple[Mapping[Any, Any], bool]:
    """The state dict, and whether its moving average is still to be found."""
    for _ in range(_MAX_DEPTH):
        if _is_object(content) or not isinstance(content, Mapping):
            raise _not_a_state_dict(content, name)
        found = _wrapped(content, _EMA_KEYS if ema else _STATE_DICT_KEYS)
        if found is None and ema and (wrapper := _wrapped(content, _STATE_DICT_KEYS)) is not None:
            content = wrapper
            break
        if found is None and not find_networks(content):
            found = _only(content, name)
        if found is None:
            break
        content, ema = found, False
    else:
        raise CheckpointError(f'{name} has dictionaries inside of dictionaries, {_MAX_DEPTH} deep and deeper.')
    if not any(isinstance(v, torch.Tensor) for v in content.values()):
        if ema:
            raise CheckpointError(
                f'{name} has no moving average under {", ".join(_EMA_KEYS)}; leave out the EMA option.'
            )
        objects = {k: v for k, v in content.items() if _is_object(v)}
        wholes = [v for k, v in objects.items() if k in _STATE_DICT_KEYS or '_modules' in v.attributes]
        if wholes:
            raise _not_a_state_dict(wholes[0], name)
        raise CheckpointError(
            f'{name} has no state dict under {", ".join(_STATE_DICT_KEYS)}; its keys are {_keys(content)}.'
        )
    return content, ema


def _wrapped(content: Mapping[Any, Any], keys: tuple[str, ...]) -> Mapping[Any, Any] | None:
    return next((content[k] for k in keys if isinstance(content.get(k), Mapping) and not _is_object(content[k])), None)


def _only(content: Mapping[Any, Any], name: str) -> Mapping[Any, Any] | None:
    """The value that is a state dict of a known network or, without one, the only state dict; None if there is none."""
    # A file may have one dictionary under many keys.
    values = {id(v): (k, v) for k, v in content.items() if isinstance(k, str) and isinstance(v, Mapping)}
    found = {k: v for k, v in values.values() if k not in _EMA_KEYS if _has_tensors(v) or _wrapped(v, _STATE_DICT_KEYS)}
    known = {k: v for k, v in found.items() if find_networks(v)}
    if known or _has_tensors(content):
        found = known
    if len(found) > 1:
        raise CheckpointError(
            f'{name} has state dicts under {" and ".join(map(shown, list(found)[:4]))}; choose one by key (--key).'
        )
    return next(iter(found.values()), None)


def _has_tensors(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items())


def _is_object(value: Any) -> bool:
    return isinstance(value, Unread) and not value


def _keys(content: Mapping[Any, Any]) -> str:
    return ', '.join(map(shown, list(content)[:8])) or 'none'


def _not_a_state_dict(content: Any, name: str) -> CheckpointError:
    if not _is_object(content):
        return CheckpointError(f'{name} holds a {type(content).__name__}, not a state dict.')
    return CheckpointError(
        f'{name} holds a pickled object ({shown(content.name)}) that would have to be executed to be read, which is '
        'refused; where its code is, save model.state_dict() instead of the model: '
        f'model = torch.load({name!r}, weights_only=False); torch.save(model.state_dict(), "weights.pth").'
    )
