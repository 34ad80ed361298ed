"""timm's entrypoints for the CoAtNet family. The network is in `coatnet_zoo.network`.

timm shows the name of this file as the module of the models: `timm.list_models(module='coatnet')`.
"""

from collections.abc import Callable
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from ..registry import SIZES, all_cfgs
from .build import build

__all__ = ['default_cfgs']  # register_model adds the entrypoints

default_cfgs = generate_default_cfgs(all_cfgs())


def _entrypoint(size: str, about: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build(size, pretrained, **kwargs)

    create.__name__ = create.__qualname__ = size
    create.__doc__ = about
    return register_model(create)


for _size, _row in SIZES.items():
    globals()[_size] = _entrypoint(_size, _row.about)
