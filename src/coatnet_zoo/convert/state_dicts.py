"""Finding the network in the content of a checkpoint file, under the keys and prefixes that training scripts use."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from ..errors import CheckpointError, shown
from .adapter import Checkpoint, recognised
from .unpickling import Stub
from .values import not_plain

# A state dict under one of these keys is the network's, whatever other state dicts there are. The first is preferred.
_KEYS = ('state_dict', 'model_state_dict', 'model', 'net', 'network', 'weights')
# A key or prefix of a moving average, such as `model_ema` or `ema.module.`
_EMA = re.compile(r'(?:^|[._])ema(?:[._]|$)', re.IGNORECASE)
_MAX_DEPTH = 8  # of nested dictionaries, e.g. {'ema': {'state_dict': ...}}, and of prefixes
# No weights: the number of averaged models, thop's counts of every module, and the positions in timm's whole modules.
_NO_WEIGHTS = ('n_averaged', 'total_ops', 'total_params', 'relative_position_index', 'rel_coords_log')
# What compiling, sharding and recomputing put into the names of the layers that they wrap.
_WRAPPERS = re.compile(r'\b_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.')
# Names of tensors of layers that no CoAtNet has, with the way to a checkpoint that loads.
_STRANGE = {
    r'\.(lora_[AB]|base_layer)\.': 'of unmerged LoRA; save model.merge_and_unload().state_dict()',
    r'_mask$': "of pruning; make it permanent with torch.nn.utils.prune.remove(layer, 'weight'), and save again",
    r'\bstages_\d': 'of features_only; load it with timm.create_model(..., features_only=True, checkpoint_path=...)',
    r'\.attn_(block|grid)\.': "of a MaxViT, which this package does not have; load it into timm's own",
    r'\.conv_dw\.': "of a CoAtNeXt, which this package does not have; load it into timm's own",
}

# TorchScript's names of classes begin with this, and have a number where there are several.
_SCRIPT, _NUMBERS = '__torch__.', re.compile(r'___torch_mangle_[0-9]+\.')

Path = tuple[str, ...]


def find_network(
    content: Any, ema: bool | None = False, name: str = 'The checkpoint', key: str | None = None,
    prefix: str | None = None,
) -> Checkpoint:  # fmt: skip
    """Find the network's tensors in the content of a checkpoint, without a prefix, and the tensors beside them.

    The content is a state dict, or a dictionary that has a state dict under some key. `name` is the checkpoint's in
    errors; the other arguments are those of `read_checkpoint`.

    Raises:
        CheckpointError: If there is no state dict, or more than one network and the arguments do not choose one.
    """
    if isinstance(content, (list, tuple)) and any(isinstance(part, Mapping) for part in content):
        content = {str(number): part for number, part in enumerate(content)}
    dicts = dict(_state_dicts(content, (), set()))
    if key is not None:
        dicts = {path: found for path, found in dicts.items() if f'{".".join(path)}.'.startswith(f'{key}.')}
    if not dicts:
        raise _no_state_dict(content, name, key)
    networks = {path: _networks(found) for path, found in dicts.items()}
    if prefix is None:
        places = [(path, start) for path, starts in networks.items() for start in starts]
    else:
        prefix += '.' * (prefix[-1:] not in ('', '.'))
        places = [(path, prefix) for path, found in dicts.items() if any(n.startswith(prefix) for n in _names(found))]
    if ema is None:
        ema = any(_EMA.search('.'.join(path)) for path, _ in places)
    largest = max(dicts, key=lambda path: (len(dicts[path]), -_rank(path)))
    path, start = _choose(places, ema, name) if places or ema else (largest, prefix or '')
    tensors, others = _tensors(dicts[path], name), [other for other in networks[path] if other != start]
    network, beside = {}, {}
    for full, value in tensors.items():
        # Of all prefixes of a name, the longest is the network that the tensor belongs to.
        owner = max((one for one in (start, *others) if full.startswith(one)), key=len, default=None)
        if owner == start:
            network[full.removeprefix(start)] = value
        elif owner is None and not_plain(value) is None:
            beside[full] = value
    if not network:
        firsts = _some(dict.fromkeys(full.partition('.')[0] for full in tensors))
        raise CheckpointError(f'{name} has no tensor under the prefix {shown(start)}; its names begin with {firsts}.')
    for pattern, problem in _STRANGE.items():
        if strange := next(filter(re.compile(pattern).search, network), None):
            raise CheckpointError(f'{name} has the tensor {shown(strange)} {problem}.')
    for label, value in network.items():
        if kind := not_plain(value):
            raise CheckpointError(f'{name} has {shown(label)} as a {shown(kind)} tensor; save plain real tensors.')
    layers = getattr(dicts[path], 'layers', {})
    inside = {name.removeprefix(start): layer for name, layer in layers.items() if name.startswith(start)}
    unused = [(*keys, one) for keys, found in networks.items() for one in found if (keys, one) != (path, start)]
    return Checkpoint(network, inside, beside, prefix=start, others=tuple('.'.join(at).rstrip('.') for at in unused))


def _networks(names: Iterable[Any]) -> list[str]:
    """The prefixes under which the names of a known network are, of more than 8 tensors; the prefix may be empty."""
    rests: dict[str, dict[str, None]] = {}
    for name in _names(names):
        prefix = ''
        for part in name.split('.')[:_MAX_DEPTH]:
            rests.setdefault(prefix, {})[name.removeprefix(prefix)] = None
            prefix += f'{part}.'
    found = (prefix for prefix, rest in rests.items() if (not prefix or len(rest) > 8) and recognised(rest))
    return sorted(found, key=lambda prefix: prefix.count('.'))


def _state_dicts(content: Any, path: Path, seen: set[int]) -> Iterator[tuple[Path, Mapping[Any, Any]]]:
    """Every dictionary of tensors inside of dictionaries, with its keys. A dictionary under many keys comes once."""
    if isinstance(content, Mapping) and id(content) not in seen and len(path) <= _MAX_DEPTH:
        seen.add(id(content))
        if isinstance(content, Stub) and ('_modules' in content.attributes or content.name.startswith(_SCRIPT)):
            content = _of_module(content)
        if any(map(_has_tensor, content.items())):
            yield path, content
        for key, value in content.items():
            if isinstance(key, str):
                yield from _state_dicts(value, (*path, key), seen)


class _Module(dict[str, Any]):
    """The state dict of a pickled module, whose class is not imported, and its layers."""

    layers: dict[str, dict[str, Any]]


def _of_module(stub: Stub) -> _Module:
    """The tensors of a pickled module under their names, and the class and the attributes of every layer."""
    state = _Module()
    state.layers = {}
    todo, done = [('', stub)], set()
    while todo:
        prefix, module = todo.pop()
        parts = [module.attributes.get(key) or {} for key in ('_parameters', '_buffers', '_modules')]
        if module.name.startswith(_SCRIPT):
            parts = [module.attributes]  # with the parameters, the buffers and the modules
        if id(module) in done or not all(isinstance(part, Mapping) for part in parts):
            continue
        done.add(id(module))
        kind = _NUMBERS.sub('', module.name.removeprefix(_SCRIPT))
        state.layers[prefix.rstrip('.')] = {**module.attributes, 'kind': kind}
        named = [(f'{prefix}{name}', value) for part in parts for name, value in part.items()]
        state.update({name: value for name, value in named if isinstance(value, torch.Tensor)})
        todo += [(f'{name}.', value) for name, value in reversed(named) if isinstance(value, Stub)]
    return state


def _has_tensor(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], torch.Tensor)


def _names(names: Iterable[Any]) -> list[str]:
    return [_WRAPPERS.sub('', name) for name in names if isinstance(name, str)]


def _rank(path: Path) -> int:
    return min((_KEYS.index(key) for key in path if key in _KEYS), default=len(_KEYS))


def _choose(places: list[tuple[Path, str]], ema: bool, name: str) -> tuple[Path, str]:
    """The keys and the prefix of the network."""
    averages = [place for place in places if _EMA.search('.'.join((*place[0], place[1])))]
    if ema and not averages:
        raise CheckpointError(f'{name} has no moving average of its weights; leave out the EMA option.')
    fitting = averages if ema else [place for place in places if place not in averages] or averages
    rank = min(_rank(path) for path, _ in fitting)
    (path, prefix), *others = [place for place in fitting if _rank(place[0]) == rank]
    if prefixes := [other for other_path, other in others if other_path == path]:
        raise CheckpointError(
            f'{name} has several CoAtNets, under the prefixes '
            f'{" and ".join(repr(shown(one)) for one in (prefix, *prefixes[:3]))}; choose one with prefix (--prefix).'
        )
    if others:
        keys = ' and '.join(shown('.'.join(one)) for one in (path, *(other for other, _ in others[:3])))
        raise CheckpointError(f'{name} has state dicts under {keys}; choose one with key (--key).')
    return path, prefix


def _tensors(content: Mapping[Any, Any], name: str) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for key, value in content.items():
        if isinstance(value, Stub) and '._rebuild_' in value.name:
            kind = next((part.name for part in reversed(value.args) if isinstance(part, type)), value.name)
            raise CheckpointError(f'{name} has {shown(key)} as a {shown(kind)}; save plain tensors of real numbers.')
        if _has_tensor((key, value)) and key.rpartition('.')[2] not in _NO_WEIGHTS:
            key = _WRAPPERS.sub('', key)
            if key in tensors:
                raise CheckpointError(f'{name} has {shown(key)} more than once, with and without a wrapper of a layer.')
            tensors[key] = value
    return tensors


def _no_state_dict(content: Any, name: str, key: str | None) -> CheckpointError:
    for place, part in (content if isinstance(content, Mapping) and content else {'': content}).items():
        if (
            isinstance(part, Stub)
            and not part
            and part.name != 'collections.OrderedDict'
            and (place in ('', *_KEYS) or '_modules' in part.attributes)
        ):
            index = f'[{shown(place)!r}]' if place else ''
            return CheckpointError(
                f'{name} holds a pickled object ({shown(part.name)}) that would have to be executed to be read, which '
                'is refused; where its code is available, save model.state_dict() instead of the model: model = '
                f'torch.load({name!r}, weights_only=False){index}; torch.save(model.state_dict(), "weights.pth").'
            )
    if not isinstance(content, Mapping):
        return CheckpointError(f'{name} holds a {type(content).__name__}, not a state dict.')
    place = '' if key is None else f' under {shown(key)}'
    return CheckpointError(f'{name} has no state dict{place}; its keys are {_some(content)}.')


def _some(names: Iterable[Any]) -> str:
    return ', '.join(map(shown, list(names)[:8])) or 'none'
