"""Attention by rows equals attention with the bias of all pairs, without ever holding that."""

import shutil

import pytest
import timm
import torch
import torch.nn.functional as F
from peers import random_images, randomize_
from torch import nn

from coatnet_zoo import optimize_for_inference
from coatnet_zoo.inference import optimize
from coatnet_zoo.inference.row_attention import RowCore, row_attention
from coatnet_zoo.network import GlobalCore
from coatnet_zoo.network.rel_pos import expand_rel_pos_table
from coatnet_zoo.network.row_attention import bias_by_rows

STAGES = dict(depths=(1, 1, 1, 1), num_classes=10)
MAPS = [(1, 1), (1, 5), (4, 1), (3, 3), (7, 4), (4, 9)]


def largest_block(model: nn.Module, x: torch.Tensor) -> int:
    """Bytes that the operator takes which takes the most."""
    with torch.profiler.profile(profile_memory=True) as record:
        model(x)
    return max(event.self_cpu_memory_usage for event in record.events())


def inputs(height: int, width: int, batch: int = 2, heads: int = 3) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values of size 4, and a table, in float64."""
    qkv = torch.randn(3, batch, heads, height * width, 4, dtype=torch.float64)
    return *qkv, torch.randn((2 * height - 1) * (2 * width - 1), heads, dtype=torch.float64)


@pytest.mark.parametrize('height, width', MAPS)
def test_rows_hold_the_bias_of_all_pairs(height: int, width: int) -> None:
    *_, table = inputs(height, width)
    rows = bias_by_rows(table, height, width).flip(0).permute(1, 0, 2, 3).flatten(1, 2)
    assert torch.equal(rows, expand_rel_pos_table(table, height, width)[0])


@pytest.mark.parametrize('height, width', MAPS)
def test_equal_to_attention_with_the_bias_of_all_pairs(height: int, width: int) -> None:
    q, k, v, table = inputs(height, width)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=expand_rel_pos_table(table, height, width))
    torch.testing.assert_close(row_attention(q, k, v, table, height, width), expected, rtol=0, atol=1e-12)


def test_what_compilers_are_told_of_the_operator_is_true() -> None:
    tests = ('test_schema', 'test_faketensor')
    torch.library.opcheck(row_attention, (*inputs(4, 3), 4, 3), test_utils=tests)


def create(impl: str, img_size: int | tuple[int, int], **kwargs) -> nn.Module:
    return randomize_(timm.create_model('coatnet_1', impl=impl, img_size=img_size, **{**STAGES, **kwargs}))


@pytest.mark.parametrize('dtype, tolerance', [(None, 1e-4), (torch.bfloat16, 0.2)])
@pytest.mark.parametrize('impl', ['timm', 'timm_rmlp', 'paper', 'chinhsuanwu'])
@torch.inference_mode()
def test_logits_of_large_images(impl: str, dtype: torch.dtype | None, tolerance: float) -> None:
    """26 x 26 positions in the third stage, 13 x 13 in the fourth; and smaller and oblong images."""
    model = create(impl, 416)
    optimized = optimize_for_inference(model, dtype=dtype)
    for img_size in (416, 160, (96, 224)):
        x = random_images(2, 3, img_size)
        torch.testing.assert_close(optimized(x), model(x), rtol=0, atol=tolerance)


def test_the_bias_of_all_pairs_is_never_made() -> None:
    """Neither by the optimised model nor by the model itself; only gradients need it."""
    model = create('paper', 672)
    optimized = optimize_for_inference(model)
    x = random_images(1, 3, 672)
    pairs = 4 * 12 * (42 * 42) ** 2
    expected = model(x).detach()
    assert largest_block(model, x) >= pairs
    with torch.inference_mode():
        for fast in (model, optimized):
            torch.testing.assert_close(fast(x), expected, rtol=0, atol=1e-4)
            assert largest_block(fast, x) < pairs / 3  # and that is the stem's


@pytest.mark.parametrize('options', [dict(rel_attn='post'), dict(attn_window=3), dict(rel_attn='none')])
@torch.inference_mode()
def test_only_global_attention_with_a_bias_inside_the_softmax_goes_by_rows(options: dict) -> None:
    model = randomize_(timm.create_model('coatnet_0', impl='paper', img_size=64, **STAGES, **options))
    optimized = optimize_for_inference(model)
    assert not any(isinstance(m, RowCore) for m in optimized.modules())
    x = random_images(1, 3, 96)
    torch.testing.assert_close(optimized(x), model(x), rtol=0, atol=1e-4)


@pytest.mark.skipif(shutil.which('g++') is None, reason='needs a C++ compiler')
@torch.inference_mode()
def test_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(optimize, 'MAX_EXPANDED', 0)
    model = create('timm', 96, stem_width=(16, 32), embed_dim=(32,), depths=(1,), block_types='T')
    compiled = optimize_for_inference(model, compile=True)
    assert any(type(m) is GlobalCore for m in model.modules())
    x = random_images(2, 3, 96)
    with torch.profiler.profile() as record:
        logits = compiled(x)
    assert 'coatnet_zoo::row_attention' in {event.key for event in record.key_averages()}
    torch.testing.assert_close(logits, model(x), rtol=0, atol=1e-4)
