"""Batch norms of all kinds (synchronised, frozen, without statistics) are folded, or stay and compute the same."""

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from peers import randomize_
from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d
from timm.models import reparameterize_model
from torch import nn

from coatnet_zoo import optimize_for_inference
from coatnet_zoo.network import BATCH_NORMS

STAGES = dict(stem_width=(8, 8), embed_dim=(8, 16), depths=(2, 2), block_types='CT', dim_head=8, img_size=32)


def create(impl: str) -> nn.Module:
    return randomize_(timm.create_model('coatnet_0', impl=impl, num_classes=5, **STAGES))


def num_norms(model: nn.Module) -> int:
    return sum(isinstance(m, BATCH_NORMS) for m in model.modules())


def without_statistics(model: nn.Module) -> nn.Module:
    """Evaluation takes the statistics of the batch."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return model


@pytest.mark.parametrize('impl', ['timm', 'timm_bn', 'paper', 'chinhsuanwu'])
@pytest.mark.parametrize('convert', [convert_sync_batchnorm, freeze_batch_norm_2d])
@torch.no_grad()
def test_folded_like_any_batch_norm(impl: str, convert: Callable[[nn.Module], nn.Module]) -> None:
    model = create(impl)
    x = torch.randn(3, 3, 64, 64)
    expected = model(x)
    folded = num_norms(optimize_for_inference(model))
    converted = convert(copy.deepcopy(model)).eval()
    assert not any(type(m) is nn.BatchNorm2d for m in converted.modules())
    torch.testing.assert_close(converted(x), expected, rtol=0, atol=1e-5)
    for make in (optimize_for_inference, reparameterize_model):
        optimized = make(converted)
        torch.testing.assert_close(optimized(x), expected, rtol=0, atol=1e-5)
        assert num_norms(optimized) == folded < num_norms(model)


@torch.no_grad()
def test_torchs_conversion_leaves_out_activations_and_so_does_the_optimised_model() -> None:
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(create('timm_bn')).eval()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(optimize_for_inference(converted)(x), converted(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize('impl', ['timm', 'timm_bn'])
@torch.no_grad()
def test_norms_without_statistics_see_the_whole_batch(impl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('coatnet_zoo.network.parts._LARGEST', 1)
    model = without_statistics(create(impl))
    x = torch.randn(4, 3, 64, 64) * torch.tensor([0.5, 1, 2, 4]).view(-1, 1, 1, 1)
    optimized = optimize_for_inference(model)
    assert num_norms(optimized) == num_norms(model)
    torch.testing.assert_close(optimized(x), model(x), rtol=0, atol=1e-4)
    assert not torch.allclose(torch.cat([model(x[:2]), model(x[2:])]), model(x), atol=1e-2)
    with pytest.raises(ValueError, match=r"does not know what the module 'stem.norm1' computes \(BatchNormAct2d\)"):
        optimize_for_inference(model, quantize='int8', calibration=x)
