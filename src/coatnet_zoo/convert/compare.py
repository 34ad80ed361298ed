"""Comparing a converted network with the code that trained it.

The same tensors fit networks that compute other things: another activation, images that are divided by 255, a softmax
after the classifier. No file shows these; here both networks run, and the first place where they differ is named.
"""

import copy
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError, first_line, shown
from ..hub import one_line_error
from .adapters.chinhsuanwu import oddity

# Largest difference of logits, relative to the largest logit, by precision.
_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}


def check_pair(model: nn.Module, file: str | os.PathLike) -> None:
    """Compare a model with what another codebase saved by `torch.save({'images': images, 'logits': logits}, file)`.

    Raises:
        CheckpointError: If the file has no such tensors, or if logits differ by more than 1e-5 of the largest logit.
    """
    what = f'{shown(file)} is not a file with images and logits of this network'
    with one_line_error(CheckpointError, what), torch.no_grad():
        pair = torch.load(file, 'cpu', weights_only=True)
        images, logits = (pair[key].float() for key in ('images', 'logits'))
        error = _difference(copy.deepcopy(model).eval().float()(images), logits)
    if error > _TOLERANCES[torch.float32]:
        raise CheckpointError(
            f'The logits differ from those in {shown(file)} by {error:.1e} of the largest, so that code computes '
            'something else with the same tensors, or computed on a GPU; compare=... (--compare FILE:FUNCTION) names '
            'the place.'
        )


def check_same(theirs: nn.Module, ours: nn.Module, images: torch.Tensor | None, names: Mapping[str, str]) -> None:
    """Compare the logits of two networks.

    Args:
        theirs: The network of another codebase.
        ours: The `CoAtNet` with the same tensors.
        images: Images; None for noise.
        names: The names of the tensors in the other codebase, by those of `ours`, where they differ.

    Raises:
        CheckpointError: See `convert_module`.
    """
    if images is None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(2, ours.in_chans, *ours.img_size, generator=generator)
    for dtype, tolerance in _TOLERANCES.items():
        pair = [copy.deepcopy(network).cpu().eval().to(dtype) for network in (theirs, ours)]
        try:
            with torch.no_grad():
                expected = pair[0](images.to(dtype))
        except Exception as e:  # third-party code may raise anything
            if dtype == torch.float64:
                continue
            raise CheckpointError(f'The other code fails on images {tuple(images.shape)}: {first_line(e)}.') from e
        with torch.no_grad():
            error = _difference(pair[1](images.to(dtype)), expected)
        if error > tolerance:
            place = _first_place(*pair, images.to(dtype), names, tolerance)
            raise CheckpointError(f'The other code computes different logits ({error:.1e} of the largest): {place}.')
        return


def _difference(found: Any, expected: Any) -> float:
    if not isinstance(expected, torch.Tensor) or found.shape != expected.shape:
        return float('inf')
    error = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    return float(error) if error == error else float('inf')


def _first_place(
    theirs: nn.Module, ours: nn.Module, images: torch.Tensor, names: Mapping[str, str], tolerance: float
) -> str:
    """Describe the first place where two networks differ."""
    places = list(_blocks(theirs, ours, names))
    seen: dict[tuple[int, str], Any] = {}
    for side, network in enumerate((theirs, ours)):
        for pair in places:
            block = network.get_submodule(pair[side])
            block.register_forward_hook(lambda _, args, out, key=(side, pair[1]): seen.update({key: (args, out)}))
        with torch.no_grad():
            network(images)
    for name, own in places:
        if (0, own) not in seen:
            return f'{shown(name)} is never called'
        (given, *_), output = seen[0, own]
        if own == 'stem' and not torch.equal(given, images):
            return f'the images are changed before {shown(name)}'
        if _difference(seen[1, own][1], output) > tolerance:
            layers = dict(theirs.get_submodule(name).named_modules(prefix=name))
            kinds = {n: {**vars(m), 'kind': f'{type(m).__module__}.{type(m).__name__}'} for n, m in layers.items()}
            return (names and oddity(kinds)) or f'{shown(name)} computes something else'
    return f'all blocks agree, so what follows {shown(places[-1][0].rpartition(".")[0] or places[-1][0])} differs'


def _blocks(theirs: nn.Module, ours: nn.Module, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The stem and the blocks by their names in the other codebase and in ours."""
    every = list(theirs.state_dict())
    for block in ('stem', *(f'stages.{i}.blocks.{j}' for i, s in enumerate(ours.stages) for j in range(len(s.blocks)))):
        tensor = next(f'{block}.{name}' for name in ours.get_submodule(block).state_dict())
        name = names.get(tensor, tensor)
        # A fork may number the stages instead of naming them.
        full, name = next((one, end) for one in every for end in (name, name[1:]) if f'.{one}'.endswith(f'.{end}'))
        found = re.match(r's?0|s?[1-4]\.[0-9]+', name) if names else None
        yield full.removesuffix(name) + (found[0] if found else block), block
