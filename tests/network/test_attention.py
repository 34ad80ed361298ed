"""Every form of attention equals a direct evaluation of its formula, and works wherever the default form does."""

from pathlib import Path

import pytest
import timm
import torch
from peers import assert_close, assert_saved_and_resized, random_images, randomize_, relative_error
from timm.models import save_for_hf
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from coatnet_zoo import CheckpointError, CoAtNetCfg, optimize_for_inference
from coatnet_zoo.network import Attention
from coatnet_zoo.network.attention import attend_by_rows, linear_attention
from coatnet_zoo.network.rel_pos import expand_rel_pos_table
from coatnet_zoo.registry import num_offsets

STAGES = dict(impl='paper', stem_width=(8, 8), embed_dim=(16, 16, 32, 32), depths=(1, 1, 2, 1), dim_head=16)
FORMS = {
    'pre': dict(rel_attn='pre'),
    'post': dict(rel_attn='post'),
    'none': dict(rel_attn='none'),
    'pre window': dict(rel_attn='pre', attn_window=3),
    'post window': dict(rel_attn='post', attn_window=3),
    'mlp window': dict(rel_pos_type='mlp', rel_pos_dim=8, attn_window=3),
    'linear': dict(rel_attn='none', attn_type='linear'),
}
NAMES = list(FORMS)


def create(form: str, **kwargs) -> nn.Module:
    args = {**STAGES, 'img_size': 64, 'num_classes': 10, **FORMS[form], **kwargs}
    return randomize_(timm.create_model('coatnet_0', **args))


def layer(form: str, feat_size: tuple[int, int]) -> Attention:
    """Two heads of dimension 4, in float64."""
    cfg = CoAtNetCfg(dim_head=4, embed_dim=(8, 8, 8, 8), **FORMS[form])
    return randomize_(Attention(cfg, 8, 8, feat_size, dtype=torch.float64))


def by_hand(attn: Attention, form: str, qkv: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The formulas of docs/design-space.md, one position after the other, in float64.

    The bias is from the table's own lookup, which the tests of equality with timm compare.
    """
    window = FORMS[form].get('attn_window', max(height, width))
    kind = FORMS[form].get('rel_attn', 'pre')
    heads, d = attn.num_heads, attn.dim_head
    h, w = min(height, window), min(width, window)
    bias = expand_rel_pos_table(attn.rel_pos(h, w), h, w)[0].detach() if kind != 'none' else None
    qkv = qkv.reshape(len(qkv), height, width, heads, 3 * d)
    q, k, v = qkv[..., :d], qkv[..., d : 2 * d], qkv[..., 2 * d :]
    out = torch.zeros(len(qkv), height, width, heads, d, dtype=torch.float64)
    positions = [(y, x) for y in range(height) for x in range(width)]
    for y, x in positions:
        near = [(b, a) for b, a in positions if (b // h, a // w) == (y // h, x // w)]
        for head in range(heads):
            keys = torch.stack([k[:, b, a, head] for b, a in near], dim=1)
            values = torch.stack([v[:, b, a, head] for b, a in near], dim=1)
            logits = torch.einsum('bd,bjd->bj', q[:, y, x, head], keys)
            if form == 'linear':
                features = [torch.where(t > 0, t + 1, t.exp()) for t in (q[:, y, x, head], keys)]
                weights = torch.einsum('bd,bjd->bj', *features)
                weights = weights / weights.sum(dim=1, keepdim=True)
            else:
                logits = logits / d**0.5
                offsets = torch.zeros(len(near), dtype=torch.float64)
                if bias is not None:
                    index = [(b % h) * w + a % w for b, a in near]
                    offsets = bias[head, (y % h) * w + x % w, index]
                inside, after = (offsets, 0.0) if kind == 'pre' else (0.0, offsets)
                weights = (logits + inside).softmax(dim=1) + after
            out[:, y, x, head] = torch.einsum('bj,bjd->bd', weights, values)
    return out.reshape(len(qkv), height * width, heads * d)


@pytest.mark.parametrize('size', [(3, 3), (4, 7), (7, 5), (2, 6)], ids=str)
@pytest.mark.parametrize('form', NAMES)
@torch.no_grad()
def test_forms_equal_their_formulas(form: str, size: tuple[int, int]) -> None:
    """At the native size and at others, on oblong maps, with windows that fit and that do not."""
    attn = layer(form, (4, 7))
    qkv = torch.randn(2, size[0] * size[1], 24, dtype=torch.float64)
    expected = by_hand(attn, form, qkv, *size)
    torch.testing.assert_close(attn.attend(qkv, *size), expected, rtol=0, atol=1e-10)
    assert expected.std() > 0.1


@pytest.mark.parametrize('grid', [(1, 5), (4, 1), (7, 4), (13, 30)], ids=str)
def test_attention_by_rows_equals_attention_over_all_pairs(grid: tuple[int, int]) -> None:
    q, k, v = torch.randn(3, 2, 3, grid[0] * grid[1], 8, dtype=torch.float64)
    table = torch.randn(num_offsets(grid), 3, dtype=torch.float64)
    mask = expand_rel_pos_table(table, *grid)
    expected = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attend_by_rows(q, k, v, table, *grid), expected, rtol=0, atol=1e-12)


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that any operator allocates."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple) else (out,):
            if isinstance(tensor, torch.Tensor) and not func.is_view:
                self.elements = max(self.elements, tensor.numel())
        return out


@torch.no_grad()
def test_what_is_materialised() -> None:
    """Tables are expanded for one image, however many there are; linear attention makes nothing larger than q, k, v."""
    batch, side = 64, 8
    n = side**2
    largest = {}
    for form in ('pre', 'post', 'none', 'linear'):
        attn = layer(form, (side, side)).float()
        qkv = torch.randn(batch, n, 24)
        with Largest() as mode:
            attn.attend(qkv, side, side)
        largest[form] = mode.elements
    assert largest['linear'] <= batch * n * 8  # one of q, k, v
    assert max(largest.values()) < batch * 2 * n * n  # nobody keeps weights for every image
    assert largest['post'] <= max(batch * n * 24, 2 * n * n)


def test_large_maps_need_little_memory() -> None:
    """Without gradients, the bias of all pairs of 40 x 40 positions is not written."""
    attn, qkv, largest = layer('pre', (8, 8)).float(), torch.randn(1, 40 * 40, 24), []
    for mode in (torch.enable_grad, torch.no_grad):
        with mode(), Largest() as tensors:
            attn.attend(qkv, 40, 40)
        largest.append(tensors.elements)
    assert largest[0] >= 2 * 1600**2 and largest[1] <= largest[0] / 19


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@torch.no_grad()
def test_linear_attention_keeps_its_range(dtype: torch.dtype) -> None:
    """Sums over 16,384 positions exceed float16's largest number, and far negative features underflow."""
    q, k, v = torch.randn(3, 1, 2, 128 * 128, 16) * 8
    q[..., 0, :] = k[:, :, :, 0] = -200.0
    expected = linear_attention(q.double(), k.double(), v.double())
    ours = linear_attention(*(t.to(dtype) for t in (q, k, v)))
    assert ours.dtype == dtype and ours.isfinite().all()
    assert (
        relative_error(ours[:, :, 1:].double(), expected[:, :, 1:]) < {torch.float16: 0.01, torch.bfloat16: 0.05}[dtype]
    )


@pytest.mark.parametrize('form', NAMES)
@torch.no_grad()
def test_torchscript_fx_and_optimisation_at_several_sizes(form: str) -> None:
    model = create(form, embed_dim=(16, 32), depths=(1, 1), block_types='CT')
    scripted = torch.jit.script(model)
    traced = torch.fx.symbolic_trace(model)
    optimized = optimize_for_inference(model)
    half = optimize_for_inference(model, dtype=torch.bfloat16)
    for size in (64, (112, 50)):
        x = random_images(2, 3, size)
        expected = model(x)
        assert_close(scripted(x), expected, rel=1e-5)
        assert_close(traced(x), expected, rel=1e-5)
        assert_close(optimized(x), expected, rel=1e-5)
        assert_close(half(x), expected, rel=0.05)


@pytest.mark.parametrize('form', NAMES)
def test_saved_models_come_back_and_change_size(form: str, tmp_path: Path) -> None:
    changed = assert_saved_and_resized(create(form), tmp_path, (64, 112))
    sizes = {m.rel_pos.window_size for m in changed.modules() if hasattr(getattr(m, 'rel_pos', None), 'window_size')}
    windows = {(3, 3), (2, 3)} if 'window' in form else {(4, 7), (2, 4)}
    assert sizes == (windows if form.startswith(('pre', 'post')) else set())


@torch.no_grad()
def test_tables_of_whole_maps_are_cut_down_for_windows(tmp_path: Path) -> None:
    """Offsets inside a window are those of the map: the same bias, seen by fewer positions."""
    model = create('pre')
    for path in ('load_state_dict', 'local-dir'):
        if path == 'load_state_dict':
            windowed = create('pre window')
            windowed.load_state_dict(model.state_dict())
        else:
            save_for_hf(model, tmp_path, safe_serialization=True)
            windowed = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, attn_window=3)
        whole, cut = (m.stages[2].blocks[0].attn.rel_pos for m in (model, windowed))
        whole = expand_rel_pos_table(whole(4, 4), 4, 4).reshape(2, 4, 4, 4, 4)[:, :3, :3, :3, :3]
        assert torch.equal(expand_rel_pos_table(cut(3, 3), 3, 3), whole.reshape(1, 2, 9, 9))
    larger = create('pre window', img_size=128)
    larger.load_state_dict(model.state_dict())
    assert torch.equal(larger.stages[2].blocks[0].attn.rel_pos(3, 3), cut(3, 3))


def test_a_checkpoint_with_positions_is_refused_where_they_have_no_place() -> None:
    state_dict = create('pre').state_dict()
    for form in ('none', 'linear'):
        model = create(form)
        with pytest.raises(CheckpointError, match=r"relative bias \(stages\.2.*rel_attn='none'.*strict=False") as e:
            model.load_state_dict(state_dict)
        assert '\n' not in str(e.value)
        left_over = model.load_state_dict(state_dict, strict=False).unexpected_keys
        assert left_over and all('rel_pos' in name for name in left_over)
    create('post').load_state_dict(state_dict)


def test_a_window_needs_an_image_that_is_larger() -> None:
    with pytest.raises(ValueError, match=r'attn_window=5 has no effect at img_size=\(64, 64\)'):
        create('pre', attn_window=5)
    model = create('pre', attn_window=4)
    with pytest.raises(ValueError, match=r'attn_window=4 has no effect at img_size=\(32, 32\)'):
        model.set_input_size(32)
    assert model.img_size == (64, 64)
    create('pre', attn_window=5, img_size=(64, 96))


@torch.no_grad()
def test_attention_weights_are_dropped_in_training_only() -> None:
    for form in ('pre', 'post', 'none', 'post window'):
        model = create(form, attn_drop_rate=0.5)
        x = random_images(2, 3, 64)
        torch.testing.assert_close(model(x), model(x))
        attn = model.stages[2].blocks[0].attn.train()
        assert not torch.allclose(attn(torch.ones(1, 16, 4, 4)), attn(torch.ones(1, 16, 4, 4)))
