"""`impl='timm'` and its variants against timm's own models, at several sizes, with random weights and statistics."""

import pytest
import timm
import torch
from peers import assert_close, random_images, timm_peer

# Ours, timm's. Narrow and shallow versions of each, so that all details are compared in little time.
VARIANTS = [
    ('coatnet_nano', 'timm', 'coatnet_nano_rw_224'),
    ('coatnet_nano', 'timm_rmlp', 'coatnet_rmlp_nano_rw_224'),
    ('coatnet_0', 'timm', 'coatnet_0_rw_224'),
    ('coatnet_0', 'timm_bn', 'coatnet_bn_0_rw_224'),
    ('coatnet_1', 'timm', 'coatnet_1_rw_224'),
    ('coatnet_1', 'timm_rmlp', 'coatnet_rmlp_1_rw_224'),
    ('coatnet_1', 'timm_rmlp2', 'coatnet_rmlp_1_rw2_224'),
    ('coatnet_2', 'timm', 'coatnet_2_rw_224'),
    ('coatnet_2', 'timm_rmlp', 'coatnet_rmlp_2_rw_224'),
    ('coatnet_3', 'timm', 'coatnet_3_rw_224'),
]
STAGES = dict(stem_width=(16, 32), embed_dim=(32, 64, 96, 128), depths=(2, 2, 3, 2))
REL = 1e-4


def pair(size: str, impl: str, name: str, **kwargs) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Our model and timm's, with the same weights."""
    args = {**STAGES, 'num_classes': 10, **kwargs}
    theirs = timm_peer(name, **args)
    ours = timm.create_model(size, impl=impl, **args).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize('img_size', [32, 96, (64, 160)], ids=str)
@pytest.mark.parametrize('size, impl, name', VARIANTS)
def test_logits_and_features_equal_timms(size: str, impl: str, name: str, img_size) -> None:
    ours, theirs = pair(size, impl, name, img_size=img_size)
    x = random_images(2, 3, ours.img_size)
    with torch.inference_mode():
        assert_close(ours(x), theirs(x), REL)
        _, our_features = ours.forward_intermediates(x)
        _, their_features = theirs.forward_intermediates(x)
        for a, b in zip(our_features, their_features, strict=True):
            assert_close(a, b, REL)
        assert_close(
            ours.forward_head(ours.forward_features(x), pre_logits=True),
            theirs.forward_head(theirs.forward_features(x), pre_logits=True),
            REL,
        )


@pytest.mark.parametrize('size, impl, name', VARIANTS)
def test_gradients_and_statistics_equal_timms(size: str, impl: str, name: str) -> None:
    ours, theirs = pair(size, impl, name, img_size=64)
    if impl.startswith('timm_rmlp'):
        # The dropout inside the position MLP draws different random numbers.
        for m in (*ours.modules(), *theirs.modules()):
            if type(m).__name__ == 'Mlp':
                m.drop1.p = 0.0
    x = torch.randn(4, 3, 64, 64)
    for model in (ours, theirs):
        model.train()
        model(x).square().mean().backward()
    theirs_by_name = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        grad = theirs_by_name[name].grad.reshape(p.shape)
        torch.testing.assert_close(p.grad, grad, rtol=1e-3, atol=1e-3 * grad.abs().max().item() + 1e-7, msg=name)
    buffers = dict(theirs.named_buffers())
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], rtol=1e-4, atol=1e-5)
