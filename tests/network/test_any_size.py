"""Images of any height and width from 32 up: equal to timm where timm can be built, the same code everywhere else."""

import copy
import dataclasses
import random
from pathlib import Path

import pytest
import timm
import torch
from long_tests import slow
from peers import assert_close, random_images, randomize_, timm_peer
from safetensors.torch import save_file
from timm.data.model_config import resolve_input_data_config
from timm.layers import resize_rel_pos_bias_table
from timm.models import get_model_args, save_for_hf
from torch._dynamo.testing import CompileCounter

from coatnet_zoo.network import rel_pos

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


@pytest.mark.parametrize('impl', IMPLS)
def test_no_shape_error_at_any_size(impl: str) -> None:
    """Every height and every width from 32 to 97, without computing values."""
    args = {**STAGES, 'depths': (1, 1, 1, 1)}
    model = timm.create_model('coatnet_1', impl=impl, img_size=NATIVE, device='meta', **args).eval()
    sides = range(32, 98)
    shuffled = random.Random(0).sample(sides, len(sides))
    for height, width in zip(sides, shuffled, strict=True):
        features = model.forward_features(torch.empty(1, 3, height, width, device='meta'))
        assert features.shape == (1, 96, -(-height // 32), -(-width // 32))


@pytest.mark.parametrize('size', [(31, 64), (64, 31), (8, 8)], ids=str)
def test_smaller_images_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(AssertionError, match='CoAtNet needs images of at least 32x32 pixels'):
        create('paper')(torch.randn(1, 3, *size))


@pytest.mark.parametrize('impl', IMPLS)
def test_crops_of_two_sizes_in_one_training_step(impl: str) -> None:
    """Gradients reach the position parameters through the resized tables, and are right."""
    model = create(impl).train()
    loss = model(torch.randn(2, 3, 96, 160)).square().mean() + model(torch.randn(4, 3, 50, 50)).square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_gradient_of_a_resized_table() -> None:
    table = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: rel_pos.resize_rel_pos_table(t, (2, 2), 3, 5), table)


@pytest.mark.parametrize('img_size', [96, (64, 160)], ids=str)
@pytest.mark.parametrize('impl', IMPLS)
@torch.inference_mode()
def test_native_size_can_be_changed(impl: str, img_size, tmp_path: Path) -> None:
    """By `set_input_size`, by loading, and on the fly: the same logits."""
    model = create(impl)
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    x = random_images(2, 3, size)
    expected = model(x)

    loaded = timm.create_model('coatnet_1', impl=impl, img_size=img_size, **STAGES).eval()
    loaded.load_state_dict(model.state_dict())
    assert_close(loaded(x), expected, rel=1e-5)

    changed = copy.deepcopy(model)
    changed.set_input_size(img_size)
    assert_close(changed(x), expected, rel=1e-5)
    assert changed.img_size == size and get_model_args(changed)['img_size'] == size
    save_for_hf(changed, tmp_path, safe_serialization=True)
    reloaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert reloaded.img_size == size
    assert_close(reloaded(x), expected, rel=1e-5)


@torch.inference_mode()
def test_saved_weights_of_one_shape_load_into_another_with_tables_of_the_same_length(tmp_path: Path) -> None:
    """(64, 128) and (128, 64) have tables of the same length that mean different offsets."""
    model = create('paper', img_size=(64, 128))
    save_for_hf(model, tmp_path, safe_serialization=True)
    turned = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, img_size=(128, 64)).eval()
    x = random_images(2, 3, (128, 64))
    assert_close(turned(x), model(x), rel=1e-5)


def test_preprocessing_follows_the_size_that_was_asked_for() -> None:
    """In what timm's scripts ask; `resolve_model_data_config` knows the weights' size only, for any model of timm."""
    model = timm.create_model('coatnet_1', img_size=160, device='meta')
    assert resolve_input_data_config(model)['input_size'] == (3, 160, 160)
    model = timm.create_model('coatnet_2.rmlp_sw_in12k_ft_in1k_384', device='meta')
    assert resolve_input_data_config(model)['input_size'] == (3, 384, 384)
    assert resolve_input_data_config(model, dict(img_size=224))['input_size'] == (3, 224, 224)
    assert model.img_size == (384, 384)


@pytest.mark.parametrize('name, in_chans', [('coatnet_atto', 3), ('coatnet_1', 1)])
def test_preprocessing_follows_the_channels_that_were_asked_for(name: str, in_chans: int, tmp_path: Path) -> None:
    model = timm.create_model(name, in_chans=in_chans, img_size=64, depths=(1, 1, 1, 1))
    assert resolve_input_data_config(model)['input_size'] == (in_chans, 64, 64)
    save_for_hf(model, tmp_path, safe_serialization=True)
    reloaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True)
    assert reloaded(torch.randn(resolve_input_data_config(reloaded)['input_size'])[None]).shape == (
        1,
        model.num_classes,
    )


@torch.no_grad()
def test_resized_tables_follow_every_change_of_the_parameter() -> None:
    """Also changes that torch does not see, such as `p.data.copy_`, which libraries for moving averages use."""
    rel_pos = table_of(create('paper').eval())
    before = rel_pos(6, 6)
    rel_pos.relative_position_bias_table.mul_(2)
    torch.testing.assert_close(rel_pos(6, 6), 2 * before)
    rel_pos.relative_position_bias_table.data.mul_(2)
    torch.testing.assert_close(rel_pos(6, 6), 4 * before)


def test_evaluation_after_inference_mode() -> None:
    """A table remembered in inference mode is of use, and not in the way, outside of it."""
    model = create('paper')
    x = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        expected = model(x)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)
    model(x).sum().backward()


@pytest.mark.parametrize('impl', IMPLS)
def test_torchscript_and_fx_at_other_sizes(impl: str) -> None:
    model = create(impl, depths=(1, 1, 1, 1))
    args = {**STAGES, 'depths': (1, 1, 1, 1)}
    scripted = torch.jit.script(
        timm.create_model('coatnet_1', impl=impl, img_size=NATIVE, scriptable=True, **args).eval()
    )
    scripted.load_state_dict(model.state_dict())
    traced = torch.fx.symbolic_trace(model)
    for size in ((64, 64), (96, 160), (50, 50)):
        x = random_images(2, 3, size)
        with torch.no_grad():
            expected = model(x)
            assert_close(scripted(x), expected, rel=1e-5)
            assert_close(traced(x), expected, rel=1e-5)


@pytest.mark.parametrize('impl, dynamic', [('timm', True), ('timm_rmlp', True), ('paper', None)])
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


@pytest.mark.parametrize(
    'impl', ['timm', pytest.param('timm_rmlp', marks=slow), pytest.param('chinhsuanwu', marks=slow)]
)
def test_onnx_with_a_dynamic_batch(impl: str, tmp_path: Path) -> None:
    """As users call it: with gradients on."""
    pytest.importorskip('onnxscript')
    runtime = pytest.importorskip('onnxruntime')
    model = create(impl, **TWO_STAGES)
    file = tmp_path / 'model.onnx'
    batch = torch.export.Dim('batch', min=1, max=64)
    size = (96, 50)
    images = random_images(2, 3, size)
    torch.onnx.export(model, (images,), file, dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    session = runtime.InferenceSession(file, providers=['CPUExecutionProvider'])
    for n in (2, 5):
        x = random_images(n, 3, size)
        (theirs,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert_close(torch.from_numpy(theirs), model(x).detach(), rel=1e-4)


@torch.no_grad()
def test_configuration_says_the_native_size_only_once() -> None:
    """Structure and size are apart: models of two sizes have the same configuration."""
    assert dataclasses.asdict(create('paper').cfg) == dataclasses.asdict(create('paper', img_size=96).cfg)
