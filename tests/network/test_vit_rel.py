"""ViT_REL: with tables of zeros timm's own ViT without positions, and a citizen of timm like the rest."""

import pytest
import timm
import torch
from peers import assert_close, random_images, randomize_
from timm.models import group_parameters
from torch import nn

SMALL = dict(stem_width=64, embed_dim=(64, 64, 64, 64), depths=(1, 2, 1, 1), dim_head=32, img_size=96, num_classes=10)


def create(**kwargs) -> nn.Module:
    return randomize_(timm.create_model('vit_rel_tiny', **{**SMALL, **kwargs}))


def from_vit(model: nn.Module, vit: nn.Module) -> dict[str, torch.Tensor]:
    """A ViT's weights in our names and order, with tables of zeros."""
    theirs = vit.state_dict()
    names = {'patch_embed.proj': 'stem.conv1', 'norm': 'norm', 'head': 'head.fc'}
    blocks = [f'stages.{s}.blocks.{b}' for s, stage in enumerate(model.stages) for b in range(len(stage.blocks))]
    for i, block in enumerate(blocks):
        for layer in ('norm1', 'attn.qkv', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2'):
            names[f'blocks.{i}.{layer}'] = f'{block}.{layer}'
    ours = {k: torch.zeros_like(v) for k, v in model.state_dict().items() if k.endswith('bias_table')}
    heads = model.stages[0].blocks[0].attn.num_heads
    for key, value in theirs.items():
        layer, _, kind = key.rpartition('.')
        if layer.endswith('qkv'):  # (q|k|v, head, dim) there, (head, q|k|v, dim) here
            value = value.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)
        ours[f'{names[layer]}.{kind}'] = value
    return ours


@torch.inference_mode()
def test_equals_timms_vit_at_several_sizes() -> None:
    """The whole of vit_tiny_patch16_224 but its class token and positions, also at sizes that patches do not fill."""
    structure = dict(class_token=False, global_pool='avg', pos_embed='none', fc_norm=False)
    structure |= dict(dynamic_img_size=True, dynamic_img_pad=True)
    theirs = randomize_(timm.create_model('vit_tiny_patch16_224', **structure))
    ours = timm.create_model('vit_rel_tiny').eval()
    ours.load_state_dict(from_vit(ours, theirs))
    for size in (224, (64, 160), (50, 97), 32):
        x = random_images(2, 3, size)
        features = ours.forward_features(x)
        assert_close(features.flatten(2).transpose(1, 2), theirs.forward_features(x), rel=1e-5)
        assert_close(ours(x), theirs(x), rel=1e-5)
    randomize_(ours.stages[0].blocks[0].attn.rel_pos)
    with pytest.raises(AssertionError, match='relative error'):  # tables matter
        assert_close(ours(x), theirs(x), rel=1e-5)


@pytest.mark.parametrize('size, width', [('tiny', 192), ('small', 384), ('base', 768)])
def test_size_is_that_of_timms_vit(size: str, width: int) -> None:
    """But for the class token and 197 positions there, and twelve tables of 27 x 27 offsets a head here."""
    count = [
        sum(p.numel() for p in timm.create_model(name, device='meta').parameters())
        for name in (f'vit_rel_{size}', f'vit_{size}_patch16_224')
    ]
    assert count[0] - count[1] == 12 * 27**2 * (width // 64) - width - 197 * width
    assert count[0] == pytest.approx(count[1], rel=0.003)


def test_heads_channels_sizes_and_initialisation() -> None:
    model = create(in_chans=5, num_classes=3, global_pool='max', img_size=(64, 112))
    assert model(torch.randn(2, 5, 40, 70)).shape == (2, 3)
    assert isinstance(model.stages[1].blocks[0].shortcut, nn.Identity)
    model = timm.create_model('vit_rel_tiny', device='meta', **SMALL).to_empty(device='cpu')
    model.init_weights()
    assert model.stem.conv1.weight.std().item() == pytest.approx((2 / (768 + 64)) ** 0.5, rel=0.05)
    assert model(random_images(2, 3, 96)).isfinite().all()


def test_training() -> None:
    model = create(drop_path_rate=0.1)
    model.set_grad_checkpointing()
    model.train()(random_images(2, 3, (64, 40))).square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
    assert len(group_parameters(model, model.group_matcher())) == 1 + 4 + 1
    assert len(model.no_weight_decay()) == 5


def test_patches_for_other_layouts() -> None:
    """`patch_size` is an option like any other."""
    model = create()
    features = model.eval().forward_intermediates(random_images(2, 3, (96, 50)), intermediates_only=True)
    assert [f.shape for f in features] == [(2, 64, 6, 4)] * 5
    args = dict(impl='paper', patch_size=8, stem_width=16, embed_dim=(16, 32, 32, 64), depths=(1, 1, 1, 1), img_size=64)
    model = timm.create_model('coatnet_0', block_types='CCTT', num_classes=4, **args)
    assert [i['reduction'] for i in model.feature_info] == [8] * 5
    assert model.eval().forward_features(torch.randn(1, 3, 60, 33)).shape == (1, 64, 8, 5)
