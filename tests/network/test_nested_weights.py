"""timm's weights in networks inside other modules, which load through torch's own `load_state_dict`."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from peers import assert_close, random_images, timm_peer
from torch import nn

from coatnet_zoo import CheckpointError

SMALL = dict(stem_width=(16, 32), embed_dim=(32, 64, 96, 128), depths=(1, 1, 2, 1), img_size=64)
TIMMS = {'coatnet_nano_rw_224': 'timm', 'coatnet_rmlp_nano_rw_224': 'timm_rmlp'}
Wrap = Callable[[nn.Module], nn.Module]
NESTED: dict[str, Wrap] = {
    'a ModuleDict': lambda model: nn.ModuleDict(dict(b=model)),
    'smp': lambda model: nn.ModuleDict(dict(encoder=nn.ModuleDict(dict(model=model)), head=nn.Conv2d(3, 2, 1))),
    'nothing': lambda model: model,
}
COPIES: dict[str, Wrap] = dict(
    none=lambda model: model, copy=copy.deepcopy, pickle=lambda m: pickle.loads(pickle.dumps(m))
)


@pytest.mark.parametrize('nested, copied', [*((name, 'none') for name in NESTED), ('smp', 'copy'), ('smp', 'pickle')])
@pytest.mark.parametrize('features_only', [False, True])
@pytest.mark.parametrize('theirs', TIMMS)
def test_they_load(theirs: str, features_only: bool, nested: str, copied: str) -> None:
    peer = timm_peer(theirs, **SMALL, features_only=features_only)
    ours = timm.create_model('coatnet_nano', impl=TIMMS[theirs], **SMALL, features_only=features_only)
    ours = COPIES[copied](ours).eval()
    NESTED[nested](ours).load_state_dict(NESTED[nested](peer).state_dict())
    x = random_images(2, 3, 64)
    with torch.inference_mode():
        found, expected = (model(x) for model in (ours, peer))
    for one, other in zip(found, expected, strict=True) if features_only else [(found, expected)]:
        assert_close(one, other, rel=1e-5)


def test_features_by_checkpoint_path(tmp_path: Path) -> None:
    peer = timm_peer('coatnet_nano_rw_224', **SMALL, features_only=True)
    torch.save(peer.state_dict(), tmp_path / 'a.pth')
    ours = timm.create_model('coatnet_nano', **SMALL, features_only=True, checkpoint_path=str(tmp_path / 'a.pth'))
    x = random_images(2, 3, 64)
    with torch.inference_mode():
        assert_close(ours.eval()(x)[-1], peer(x)[-1], rel=1e-5)


def test_a_network_that_computes_something_else_is_refused() -> None:
    """timm's reading of the paper has tensors of the same sizes, but other strides and pools."""
    peer = nn.ModuleDict(dict(b=timm.create_model('coatnet_0_224', device='meta')))
    ours = nn.ModuleDict(dict(b=timm.create_model('coatnet_0', impl='paper', device='meta')))
    with pytest.raises(CheckpointError, match="no CoAtNet of timm has conv_stride='expand', pool_type='max2'"):
        ours.load_state_dict(peer.state_dict(), assign=True)
