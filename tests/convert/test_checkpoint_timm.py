"""State dicts of timm's own CoAtNets, all that timm has: named right and loaded exactly, or refused by name."""

import functools
from pathlib import Path

import pytest
import timm
import torch
from peers import assert_close, random_images, timm_peer

from coatnet_zoo import CheckpointError, convert_checkpoint, resolve_cfg
from coatnet_zoo.convert import identify
from coatnet_zoo.factory import load_model
from coatnet_zoo.registry import TIMM_NAMES

WITHOUT = [name for name, row in TIMM_NAMES.items() if row is None]
WITH = [name for name in TIMM_NAMES if name not in WITHOUT]
SMALL = dict(stem_width=(16, 32), embed_dim=(32, 64, 96, 128), depths=(2, 2, 3, 2), num_classes=10, img_size=64)


@functools.cache
def on_meta(name: str) -> dict[str, torch.Tensor]:
    return timm.create_model(name, num_classes=1000, device='meta').state_dict()


def theirs_and_ours(name: str, **changed) -> tuple[torch.nn.Module, torch.nn.Module]:
    """timm's network in a small version, and this package's, without weights in common yet."""
    size, impl, args = TIMM_NAMES[name]
    hidden = dict(head_hidden_size=128) if impl == 'paper' else {}
    theirs = timm_peer(name, **SMALL, **hidden)
    return theirs, timm.create_model(size, impl=impl, **{**args, **SMALL, **changed}).eval()


def refusal(model: torch.nn.Module, state_dict: dict[str, torch.Tensor]) -> str:
    with pytest.raises(CheckpointError) as e:
        model.load_state_dict(state_dict)
    assert '\n' not in str(e.value)
    return str(e.value)


def test_the_table_has_all_that_timm_has() -> None:
    names = {*timm.list_models('*coat*net*', module='maxxvit'), *timm.list_models('coatnext*', module='maxxvit')}
    assert names == set(TIMM_NAMES)


@pytest.mark.parametrize('name', WITH)
def test_every_network_of_timm_is_named(name: str) -> None:
    size, impl, args = TIMM_NAMES[name]
    state_dict = on_meta(name)
    known = identify(state_dict)
    assert (known.size, known.impl) == (size, impl)
    assert known.title.startswith(f"timm's {name.removesuffix('_384').removesuffix('_224')}")
    ours = timm.create_model(size, impl=impl, **known.args, device='meta').state_dict()
    assert {k: v.numel() for k, v in ours.items()} == {k: v.numel() for k, v in state_dict.items()}
    assert args.items() <= known.args.items()


@pytest.mark.parametrize('name', WITH)
@torch.inference_mode()
def test_the_named_network_gives_timms_logits(name: str) -> None:
    theirs, ours = theirs_and_ours(name)
    ours.load_state_dict(theirs.state_dict())
    x = random_images(2, 3, 64)
    assert_close(ours(x), theirs(x), rel=1e-4)


@pytest.mark.parametrize('name', ['coatnet_pico_rw_224', 'test_coatnet'])
@torch.inference_mode()
def test_files_are_converted_and_the_call_of_the_refusal_loads_them(name: str, tmp_path: Path) -> None:
    theirs = timm_peer(name, num_classes=7, in_chans=1, img_size=96)
    torch.save({'state_dict': theirs.state_dict()}, tmp_path / 'a.pth')
    message = refusal(timm.create_model('coatnet_atto', device='meta'), theirs.state_dict())
    call = message[message.index('timm.create_model(') : message.index('...)') + 4]
    result = convert_checkpoint(tmp_path / 'a.pth', tmp_path / 'out')
    assert result.size == TIMM_NAMES[name][0]
    x = random_images(2, 1, 96)
    for ours in (eval(call.replace('...', f'{str(tmp_path / "a.pth")!r}')), load_model(str(tmp_path / 'out'))):
        assert_close(ours.eval()(x), theirs(x), rel=1e-4)


@pytest.mark.parametrize('name', [n for n, row in TIMM_NAMES.items() if row and row[1] == 'paper'])
def test_the_papers_network_is_not_timms(name: str) -> None:
    """Their shapes are the same in some sizes, but strides and pools are not."""
    size, impl, _ = TIMM_NAMES[name]
    message = refusal(timm.create_model(size, impl=impl, device='meta'), on_meta(name))
    assert f"timm's {name}" in message and "conv_stride='depthwise', pool_type='avg2'" in message


@pytest.mark.parametrize('name', WITHOUT)
def test_networks_without_an_equal_are_refused_by_name(name: str) -> None:
    message = refusal(timm.create_model('coatnet_nano', device='meta'), on_meta(name))
    assert f"timm's {name}, with blocks that" in message or 'of a CoAtNeXt, which this package' in message


UNSEEN = dict(
    **dict(conv_act='relu', conv_norm_eps=1e-3, pre_norm_act=False, conv_stride='expand', se_act='gelu'),
    **dict(norm_eps=1e-5, attn_pool_first=True, pool_type='max2'),
)


@pytest.mark.parametrize('field', UNSEEN)
def test_what_no_shape_shows_is_compared(field: str) -> None:
    """Also for networks of timm's code in sizes that timm does not register."""
    theirs, ours = theirs_and_ours('coatnet_0_rw_224', **{field: UNSEEN[field]})
    if field != 'pre_norm_act':  # timm's registered networks have both values
        assert f'no CoAtNet of timm has {field}={UNSEEN[field]!r}' in refusal(ours, theirs.state_dict())
    registered = timm.create_model('coatnet_0', impl='timm', **{field: UNSEEN[field]}, device='meta')
    assert getattr(resolve_cfg('coatnet_0', 'timm'), field) != UNSEEN[field]
    assert "load it with timm.create_model('coatnet_0', impl='timm'" in refusal(registered, on_meta('coatnet_0_rw_224'))


def test_files_without_counters_of_batches_are_recognised() -> None:
    state_dict = {k: v for k, v in on_meta('coatnet_0_224').items() if not k.endswith('num_batches_tracked')}
    assert identify(state_dict).title.startswith("timm's coatnet_0_224")
