"""Images of any height and width from 32 up: equal to timm where timm can be built, the same code everywhere else."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from peers import assert_close, assert_saved_and_resized, random_images, randomize_, timm_peer
from safetensors.torch import save_file
from timm.data.model_config import resolve_input_data_config
from timm.layers import resize_rel_pos_bias_table
from timm.models import get_model_args, save_for_hf
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

from coatnet_zoo.network import RelPosBias, expand_rel_pos_table, rel_pos

IMPLS = ['timm', 'timm_rmlp', 'paper', 'chinhsuanwu', 'keras_cv']
STAGES = dict(stem_width=(16, 24), embed_dim=(32, 32, 64, 96), depths=(1, 2, 2, 1), num_classes=10)
# One stage of convolutions and one of attention, for what takes long and is the same in every stage.
TWO_STAGES = dict(embed_dim=(32, 64), depths=(1, 1), block_types='CT')
NATIVE = 64


def create(impl: str, img_size=NATIVE, **kwargs) -> torch.nn.Module:
    return randomize_(timm.create_model('coatnet_1', impl=impl, img_size=img_size, **{**STAGES, **kwargs}))


def table_of(model: torch.nn.Module) -> rel_pos.RelPosBias:
    return model.stages[2].blocks[0].attn.rel_pos


WINDOWS = [(1, 1), (2, 2), (7, 7), (5, 9), (14, 14), (3, 4)]


@pytest.mark.parametrize('src', WINDOWS, ids=str)
@pytest.mark.parametrize('dst', [*WINDOWS, (1, 9), (28, 28), (4, 14), (10, 3)], ids=str)
def test_tables_are_resized_as_timm_does(src: tuple[int, int], dst: tuple[int, int]) -> None:
    table = torch.randn((2 * src[0] - 1) * (2 * src[1] - 1), 3)
    shape = ((2 * dst[0] - 1) * (2 * dst[1] - 1), 3)
    theirs = resize_rel_pos_bias_table(table, dst, shape, old_window_size=src)
    torch.testing.assert_close(rel_pos.resize_rel_pos_table(table, src, *dst), theirs, rtol=0, atol=1e-5)


MULTIPLES = [32, 96, 160, 224, (64, 128), (192, 96)]
# At these, timm's 2x2 pooling rounds down and disagrees with its strides, so that its models fail; with 3x3 they run.
# At odd sizes they fail always, because the size of their position tables is rounded down at the stem.
OTHERS = [50, 98, 112, (48, 100), (74, 32)]
POOL = dict(conv_pool_type='max', transformer_pool_type='max')


@pytest.mark.parametrize(
    'name, impl, theirs_only, ours_only, sizes',
    [
        ('coatnet_1_rw_224', 'timm', {}, {}, MULTIPLES),
        ('coatnet_rmlp_1_rw_224', 'timm_rmlp', {}, {}, MULTIPLES),
        ('coatnet_1_rw_224', 'timm', POOL, dict(pool_type='max'), OTHERS),
        ('coatnet_rmlp_1_rw_224', 'timm_rmlp', dict(conv_stride_mode='dw'), dict(conv_stride='depthwise'), OTHERS),
    ],
)
@torch.inference_mode()
def test_every_size_equals_timms_model_of_that_size(
    name: str, impl: str, theirs_only: dict, ours_only: dict, sizes: list, tmp_path: Path
) -> None:
    """The same native weights, ours resized on the fly, timm's at load."""
    file = str(tmp_path / 'native.safetensors')
    source = timm_peer(name, img_size=NATIVE, **STAGES, **theirs_only)
    save_file(source.state_dict(), file)
    ours = timm.create_model('coatnet_1', impl=impl, img_size=NATIVE, **STAGES, **ours_only).eval()
    ours.load_state_dict(source.state_dict())
    overlay = dict(file=file, num_classes=10)
    for size in sizes:
        theirs = timm.create_model(
            name, img_size=size, pretrained=True, pretrained_cfg_overlay=overlay, **STAGES, **theirs_only
        )
        x = random_images(2, 3, size)
        assert_close(ours(x), theirs.eval()(x), rel=1e-4)


@pytest.mark.parametrize('impl', ['timm', 'paper', 'chinhsuanwu'])
def test_no_shape_error_at_any_size(impl: str) -> None:
    """Every remainder of the stride of 32, in the height or in the width, without computing values."""
    args = {**STAGES, 'depths': (1, 1, 1, 1)}
    model = timm.create_model('coatnet_1', impl=impl, img_size=NATIVE, device='meta', **args).eval()
    widths = random.Random(0).sample(range(48, 64), 16)
    for height, width in zip(range(32, 48), widths, strict=True):
        features = model.forward_features(torch.empty(1, 3, height, width, device='meta'))
        assert features.shape == (1, 96, -(-height // 32), -(-width // 32))


@pytest.mark.parametrize('size', [(31, 64), (64, 31), (8, 8)], ids=str)
def test_smaller_images_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(AssertionError, match='CoAtNet needs images of at least 32x32 pixels'):
        create('paper')(torch.randn(1, 3, *size))


def test_gradient_of_a_resized_table() -> None:
    table = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: rel_pos.resize_rel_pos_table(t, (2, 2), 3, 5), table)


@pytest.mark.parametrize('img_size', [(96, 96), (64, 160)], ids=str)
@pytest.mark.parametrize('impl', IMPLS)
def test_native_size_can_be_changed(impl: str, img_size: tuple[int, int], tmp_path: Path) -> None:
    """By `set_input_size`, by loading, and on the fly: the same logits."""
    model = create(impl)
    changed = assert_saved_and_resized(model, tmp_path, img_size)
    assert changed.img_size == img_size and get_model_args(changed)['img_size'] == img_size
    assert resolve_input_data_config(changed)['input_size'] == (3, *img_size)
    loaded = timm.create_model('coatnet_1', impl=impl, img_size=img_size, **STAGES).eval()
    loaded.load_state_dict(model.state_dict())
    x = random_images(2, 3, img_size)
    assert_close(loaded(x), model(x), rel=1e-5)


@pytest.mark.parametrize('mode', [torch.enable_grad, torch.inference_mode])
def test_tables_of_a_new_size_are_new_parameters(mode: Callable) -> None:
    """That optimisers made afterwards train; a size that stays leaves the parameters as they are."""
    model = create('paper').train()
    table_of(model).relative_position_bias_table.requires_grad_(False)
    before = dict(model.named_parameters())
    with mode():
        model.set_input_size(NATIVE)
        assert all(p is before[name] for name, p in model.named_parameters())
        model.set_input_size(96)
    tables = {name: p for name, p in model.named_parameters() if p is not before[name]}
    assert len(tables) == 3 and all(type(p) is torch.nn.Parameter for p in tables.values())
    assert [p.requires_grad for p in tables.values()] == [False, True, True]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    values = [p.detach().clone() for p in tables.values()]
    model(torch.randn(2, 3, 96, 96)).square().mean().backward()
    optimizer.step()
    changed = [not torch.equal(p, value) for p, value in zip(tables.values(), values, strict=True)]
    assert changed == [False, True, True]


@torch.inference_mode()
def test_saved_weights_of_one_shape_load_into_another_with_tables_of_the_same_length(tmp_path: Path) -> None:
    """(64, 128) and (128, 64) have tables of the same length that mean different offsets."""
    model = create('paper', img_size=(64, 128))
    save_for_hf(model, tmp_path, safe_serialization=True)
    turned = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, img_size=(128, 64)).eval()
    x = random_images(2, 3, (128, 64))
    assert_close(turned(x), model(x), rel=1e-5)


def test_preprocessing_follows_the_size_and_the_channels_that_were_asked_for(tmp_path: Path) -> None:
    """In what timm's scripts ask; `resolve_model_data_config` knows the weights' size only, for any model of timm."""
    model = timm.create_model('coatnet_2.rmlp_sw_in12k_ft_in1k_384', device='meta')
    assert resolve_input_data_config(model)['input_size'] == (3, 384, 384)
    assert resolve_input_data_config(model, dict(img_size=224))['input_size'] == (3, 224, 224)
    saved = timm.create_model('coatnet_1', in_chans=1, img_size=64, depths=(1, 1, 1, 1))
    save_for_hf(saved, tmp_path, safe_serialization=True)
    for model in (saved, timm.create_model(f'local-dir:{tmp_path}', pretrained=True)):
        assert resolve_input_data_config(model)['input_size'] == (1, 64, 64)


@pytest.mark.parametrize('mode', [torch.inference_mode, lambda: FakeTensorMode(allow_non_fake_inputs=True)])
def test_training_after_another_mode(mode: Callable) -> None:
    """At a size that was first seen in that mode."""
    model = create('paper')
    with mode():
        model(torch.randn(1, 3, 72, 136))
    logits = model(torch.randn(1, 3, 72, 136))
    assert type(logits) is torch.Tensor
    logits.sum().backward()


@pytest.mark.parametrize('impl, dynamic', [('timm_rmlp', True), ('paper', None)])
@torch.no_grad()
def test_compiled_models_recompile_at_most_twice_over_five_sizes(impl: str, dynamic: bool | None) -> None:
    torch._dynamo.reset()
    model = create(impl, **TWO_STAGES)
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, dynamic=dynamic)
    for size in (64, 96, 160, (128, 192), 100):
        x = random_images(2, 3, size)
        assert_close(compiled(x), model(x), rel=1e-5)
    assert counter.frame_count <= 1 + 2


@pytest.mark.parametrize('img_size', [16, 31, (224, 16), (16, 224), 10_000, 0, -224])
def test_sizes_of_images_that_no_network_takes(img_size: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r'^img_size=.* must be .* an integer number of pixels from 32 to 8192\.$'):
        timm.create_model('coatnet_1', img_size=img_size, device='meta')
    model = timm.create_model('coatnet_atto')
    with pytest.raises(ValueError, match='an integer number of pixels from 32 to 8192'):
        model.set_input_size(img_size)
    assert model.img_size == (64, 64)


@pytest.mark.parametrize('make', [lambda model: model, torch.jit.script, torch.fx.symbolic_trace])
def test_images_of_whole_numbers_are_refused(make: Callable) -> None:
    model = make(timm.create_model('coatnet_atto', img_size=64, in_chans=1).eval())
    assert model(torch.rand(1, 1, 64, 64)).isfinite().all()
    for dtype in (torch.uint8, torch.int64):
        with pytest.raises(Exception, match=r'CoAtNet needs floating-point images; .*timm\.data\.create_transform'):
            model(torch.zeros(1, 1, 64, 64, dtype=dtype))


class Positions(torch.nn.Module):
    """Graphs of this for any height and width have the eager values at every size, whatever size the example has."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = RelPosBias((4, 5), 3)
        torch.nn.init.normal_(self.bias.relative_position_bias_table)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, height, width) -> (1, heads, N, N)."""
        height, width = x.shape[2:]
        return expand_rel_pos_table(self.bias(height, width), height, width)


@torch.no_grad()
@pytest.mark.parametrize('example', [(4, 5), (6, 6)])
def test_any_example_makes_a_graph_for_any_size(example: tuple[int, int]) -> None:
    model = Positions()
    dynamic = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    graph = torch.export.export(model, (torch.zeros(1, 1, *example),), dynamic_shapes=(dynamic,)).module()
    for size in ((4, 5), (5, 4), (4, 6), (3, 5), (2, 2), (9, 7)):
        assert torch.equal(graph(torch.zeros(1, 1, *size)), expand_rel_pos_table(model.bias(*size), *size)), size
