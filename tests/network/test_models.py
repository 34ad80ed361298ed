"""What timm's users do with a model works for every implementation: features, heads, tracing, training options."""

import pytest
import timm
import torch
from peers import randomize_
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.utils import AttentionExtract

from coatnet_zoo import optimize_for_inference
from coatnet_zoo.registry import SIZES

IMPLS = ['timm', 'timm_rmlp', 'timm_rmlp2', 'paper', 'chinhsuanwu', 'keras_cv']
STAGES = dict(stem_width=(16, 24), embed_dim=(32, 32, 64, 96), depths=(1, 2, 2, 1), img_size=64, num_classes=10)


def create(impl: str, **kwargs) -> torch.nn.Module:
    return randomize_(timm.create_model('coatnet_1', impl=impl, **{**STAGES, **kwargs}))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64)


def test_all_models_are_listed_under_their_module() -> None:
    assert timm.list_models(module='coatnet') == sorted(SIZES)


def test_another_head_takes_the_features(x: torch.Tensor) -> None:
    model = create('timm').eval()
    model.head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(96, 2))
    torch.testing.assert_close(optimize_for_inference(model)(x), model(x), rtol=1e-4, atol=1e-5)
    model.head = torch.nn.Identity()
    assert model(x).shape == (2, 96, 2, 2)


@pytest.mark.parametrize('impl', IMPLS)
def test_features(impl: str, x: torch.Tensor) -> None:
    """By `features_only`, by `forward_intermediates`, and of a pruned model."""
    model = create(impl)
    final, features = model.forward_intermediates(x)
    torch.testing.assert_close(final, model.forward_features(x))
    extractor = timm.create_model('coatnet_1', impl=impl, features_only=True, **STAGES).eval()
    extractor.load_state_dict({k.replace('stages.', 'stages_'): v for k, v in model.state_dict().items()}, strict=False)
    torch.testing.assert_close(extractor(x), features)
    assert [f.shape[1] for f in features] == extractor.feature_info.channels() == [24, 32, 32, 64, 96]
    assert [64 // f.shape[-1] for f in features] == extractor.feature_info.reduction() == [2, 4, 8, 16, 32]
    three = {**STAGES, 'embed_dim': (32, 32, 64), 'depths': (1, 2, 1), 'block_types': 'CCT'}
    assert len(timm.create_model('coatnet_1', impl=impl, features_only=True, **three).eval()(x)) == 4
    some = [features[i] for i in (1, 3)]
    for options in (dict(indices=[1, 3]), dict(indices=[1, 3], stop_early=True)):
        torch.testing.assert_close(model.forward_intermediates(x, intermediates_only=True, **options), some)
    normed = model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)
    torch.testing.assert_close(normed, [model.norm(features[-1])])
    with pytest.raises(ValueError, match="output_fmt='NLC'"):
        model.forward_intermediates(x, output_fmt='NLC')
    assert model.prune_intermediate_layers([1, 3]) == [1, 3] and len(model.stages) == 3
    torch.testing.assert_close(model.forward_intermediates(x, indices=[1, 3], intermediates_only=True), some)
    assert model(x).shape == (2, 64, 4, 4)


@pytest.mark.parametrize('impl', IMPLS)
def test_classifier_can_be_reset(impl: str, x: torch.Tensor) -> None:
    model = create(impl)
    has_bias = model.get_classifier().bias is not None
    assert has_bias == (impl != 'chinhsuanwu')
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and model.num_classes == 7
    assert (model.get_classifier().bias is not None) == has_bias
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), model.forward_head(model.forward_features(x), pre_logits=True))
    model.reset_classifier(5, 'max')
    assert model(x).shape == (2, 5)
    model.reset_classifier(0, '')
    assert model(x).shape == (2, 96, 2, 2)
    assert create(impl, in_chans=5, num_classes=3, global_pool='max')(torch.randn(2, 5, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize('impl', IMPLS)
def test_drop_path_only_acts_in_training(impl: str, x: torch.Tensor) -> None:
    model = create(impl)
    dropped = timm.create_model('coatnet_1', impl=impl, drop_path_rate=0.5, **STAGES)
    dropped.load_state_dict(model.state_dict())
    torch.testing.assert_close(dropped.eval()(x), model(x))
    assert not torch.allclose(dropped.train()(x), dropped(x))
    rates = [m.drop_prob for m in dropped.modules() if type(m).__name__ == 'DropPath']
    assert rates == sorted(rates) and max(rates) == pytest.approx(0.5)


@pytest.mark.parametrize('impl', IMPLS)
def test_gradient_checkpointing_changes_nothing(impl: str, x: torch.Tensor) -> None:
    grads = []
    for enable in (False, True):
        model = create(impl)
        model.set_grad_checkpointing(enable)
        model.train()
        torch.manual_seed(0)
        model(x).square().mean().backward()
        grads.append({k: p.grad for k, p in model.named_parameters()})
    for k, grad in grads[0].items():
        torch.testing.assert_close(grads[1][k], grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('impl', IMPLS)
def test_every_parameter_gets_a_gradient_and_a_group(impl: str) -> None:
    """Gradients of crops of two sizes in one step; they reach the position parameters through the resized tables."""
    model = create(impl).train()
    (model(torch.randn(2, 3, 96, 160)).square().mean() + model(torch.randn(4, 3, 50, 50)).square().mean()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    names = {k for k, _ in model.named_parameters()}
    # A constant that an MLP of offsets adds to all logits changes no softmax: its gradient is nothing but rounding.
    moved = {k for k, p in model.named_parameters() if p.grad.any()}
    assert {k for k in names if not k.endswith('rel_pos.mlp.fc2.bias')} <= moved

    groups = group_parameters(model, model.group_matcher())
    assert sorted(n for g in groups.values() for n in g) == sorted(names)
    assert len(groups) == 1 + 4 + 1  # stem, stages with the norm in the last, head
    assert len(group_parameters(model, model.group_matcher(coarse=True))) == 1 + 4 + 1
    no_decay = model.no_weight_decay()
    assert no_decay and all('rel_pos' in n for n in no_decay)
    params = [p for g in param_groups_layer_decay(model, no_weight_decay_list=no_decay) for p in g['params']]
    assert len(params) == len(names)
    create_optimizer_v2(model, opt='adamw', lr=1e-3, layer_decay=0.8).step()


def test_layer_decay_is_timms() -> None:
    """The same `layer_decay` gives the stem and the stages the learning rates that timm's CoAtNet gets."""
    scales = []
    for model in (timm.create_model('coatnet_0', **STAGES), timm.create_model('coatnet_0_rw_224', **STAGES)):
        groups = param_groups_layer_decay(model, layer_decay=0.75)
        names = {p: name for name, p in model.named_parameters()}
        found = {names[p]: g['lr_scale'] for g in groups for p in g['params']}
        layers = ('stem.conv1', 'stages.0.blocks.0.conv1_1x1', 'stages.3.blocks.0.mlp.fc1', 'head.fc')
        scales.append([found[f'{name}.weight'] for name in layers])
    assert scales[0] == scales[1] and scales[0][0] == pytest.approx(0.75**5)


@torch.no_grad()
def test_attention_weights_can_be_extracted(x: torch.Tensor) -> None:
    model = create('timm')
    timm.layers.set_fused_attn(False)
    try:
        unfused = timm.create_model('coatnet_1', impl='timm', **STAGES).eval()
    finally:
        timm.layers.set_fused_attn(True)
    unfused.load_state_dict(model.state_dict())
    torch.testing.assert_close(unfused(x), model(x), rtol=0, atol=1e-5 * model(x).abs().max().item())
    for method in ('fx', 'hook'):
        weights = AttentionExtract(unfused, method=method)(x)
        assert len(weights) == sum(STAGES['depths'][2:])
        assert all(torch.allclose(w.sum(-1), torch.ones(())) for w in weights.values())


@pytest.mark.parametrize('name', SIZES)
def test_default_configurations_describe_the_models(name: str) -> None:
    """As timm's own tests demand of every model: sizes, and the names of the first convolution and the classifier."""
    small = dict(embed_dim=(128,) * 4, depths=(1,) * 4, block_types='TTTT' if name.startswith('vit') else 'CCTT')
    model = timm.create_model(name, device='meta', **small).eval()
    cfg = model.default_cfg
    assert f'{cfg["first_conv"]}.weight' in model.state_dict()
    assert model.get_submodule(cfg['classifier']) is model.get_classifier()
    assert model.num_classes == cfg['num_classes'] == model.get_classifier().out_features
    features = model.forward_features(torch.empty(2, *cfg['input_size'], device='meta'))
    assert features.shape == (2, model.num_features, *cfg['pool_size'])
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
