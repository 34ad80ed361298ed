"""The initial weights of every implementation, against stated distributions and against the weights of its own code.

Where `COATNET_PYTORCH`, or `KERAS_CV_ATTENTION_MODELS` and `KERAS_CV_PYTHON`, name the original codes (see
`originals.py`), their networks are made and compared, too, tensor by tensor.
"""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import originals
import pytest
import timm
import torch
from safetensors.torch import save_file

from coatnet_zoo import CoAtNet, CoAtNetCfg, resolve_cfg
from coatnet_zoo.convert import Checkpoint, read_checkpoint, translate

Tensors = dict[str, torch.Tensor]

STAGES = dict(embed_dim=(32, 64, 96, 128), depths=(1, 2, 1, 2), num_classes=100)
_MOST_VALUES = 10_000  # of a tensor that are compared


def values(draws: list[Tensors], name: str) -> torch.Tensor:
    """The values of a tensor in several networks, at most `_MOST_VALUES`."""
    x = torch.cat([draw[name].flatten() for draw in draws]).double()
    return x[:: len(x) // _MOST_VALUES + 1]


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> str | None:
    """How two samples differ by more than five times their sampling error, or None if they do not."""
    constants = [float(x[0]) if (x == x[0]).all() else None for x in (ours, theirs)]
    if constants != [None, None]:
        return None if constants[0] == constants[1] else f'constants {constants}'
    error = (1 / len(ours) + 1 / len(theirs)) ** 0.5
    spreads = ours.std().item(), theirs.std().item()
    means = ours.mean().item(), theirs.mean().item()
    # The sampling error of a standard deviation is largest for the normal distribution.
    if abs(spreads[0] / spreads[1] - 1) > 5 * 0.5**0.5 * error or abs(means[0] - means[1]) > 5 * spreads[1] * error:
        return f'means {means}, standard deviations {spreads}'
    # Kolmogorov and Smirnov's largest distance between the distribution functions is above this in 1 of 10^6 cases.
    both = torch.cat([ours, theirs]).sort().values
    below = [torch.searchsorted(x.sort().values, both, right=True) / len(x) for x in (ours, theirs)]
    distance = (below[0] - below[1]).abs().max().item()
    return f'distributions {distance:.2f} apart' if distance > 2.7 * error else None


def differences(ours: list[Tensors], theirs: list[Tensors]) -> dict[str, str]:
    """The tensors that differ, and how; the names must be the same."""
    assert ours[0].keys() == theirs[0].keys()
    found = {name: difference(values(ours, name), values(theirs, name)) for name in ours[0]}
    return {name: how for name, how in found.items() if how}


# Stated distributions: a sample for a weight, or for the bias beside this weight.

Law = Callable[[torch.Tensor], torch.Tensor]


def uniform(bound: float) -> torch.Tensor:
    return torch.empty(_MOST_VALUES).uniform_(-bound, bound)


def normal(std: float) -> torch.Tensor:
    return torch.randn(_MOST_VALUES) * std


def xavier(w: torch.Tensor) -> torch.Tensor:
    return uniform(math.sqrt(6 / (w[0].numel() + len(w))))


def fan_in(w: torch.Tensor) -> torch.Tensor:
    return uniform(w[0].numel() ** -0.5)


def fan_out(w: torch.Tensor) -> torch.Tensor:
    return normal(math.sqrt(2 / (len(w) * w[0, 0].numel())))


def zero(_: torch.Tensor) -> torch.Tensor:
    return torch.zeros(1)


# The first pattern that is found in the name of a tensor counts. Stages 2 and 3 have Transformer blocks.
NORMS: list[tuple[str, Law]] = [
    (r'norm.*(weight|running_var)$', lambda w: torch.ones(1)),
    (r'norm.*(bias|running_mean|num_batches_tracked)$', zero),
]
TIMM = [
    *NORMS,
    (r'^head', fan_in),
    (r'bias$', zero),
    (r'bias_table$', lambda w: normal(0.02)),
    (r'attn|mlp|^stages\.[23].*shortcut', xavier),
    (r'conv2_kxk', lambda w: normal(math.sqrt(2 / 9))),
    (r'', fan_out),
]
TORCH = [*NORMS, (r'bias_table$', zero), (r'', fan_in)]
KERAS_CV = [
    *NORMS,
    (r'bias$|bias_table$', zero),
    (r'conv2_kxk', lambda w: uniform(w.numel() ** -0.5)),
    (r'\.se\.|attn\.proj|^head', xavier),
    (r'', fan_in),
]
CASES = {
    'timm': (dict(impl='timm', stem_width=(16, 32)), TIMM),
    'timm with an MLP of positions': (dict(impl='timm', rel_pos_type='mlp'), TIMM),
    'paper': (dict(impl='paper'), TIMM),
    'chinhsuanwu': (dict(impl='chinhsuanwu'), TORCH),
    'chinhsuanwu with biases': (dict(impl='chinhsuanwu', qkv_bias=True, se_bias=True, head_bias=True), TORCH),
    'keras_cv': (dict(impl='keras_cv'), KERAS_CV),
    'keras_cv with biases': (dict(impl='keras_cv', qkv_bias=True, mlp_bias=True, conv_out_bias=True), KERAS_CV),
    'keras_cv with a hidden layer': (dict(impl='keras_cv', final_norm=True, head_hidden=True), KERAS_CV),
}


def stated(tensors: Tensors, laws: list[tuple[str, Law]]) -> Tensors:
    """A sample of the stated distribution of every tensor."""
    samples = {}
    for name, tensor in tensors.items():
        law = next(law for pattern, law in laws if re.search(pattern, name))
        samples[name] = law(tensors[re.sub('bias$', 'weight', name)] if name.endswith('bias') else tensor)
    return samples


def as_usual(**kwargs) -> CoAtNet:
    return timm.create_model('coatnet_0', **STAGES, **kwargs)


def after_the_meta_device(**kwargs) -> CoAtNet:
    model = timm.create_model('coatnet_0', device='meta', **STAGES, **kwargs).to_empty(device='cpu')
    for tensor in model.state_dict().values():
        tensor.fill_(float('nan') if tensor.is_floating_point() else -1)
    model.init_weights()
    return model


@pytest.mark.parametrize('make', [as_usual, after_the_meta_device])
@pytest.mark.parametrize('case', CASES)
def test_distributions_are_the_stated_ones(case: str, make: Callable[..., CoAtNet]) -> None:
    kwargs, laws = CASES[case]
    torch.manual_seed(0)
    draws = [make(**kwargs).state_dict() for _ in range(3)]
    assert differences(draws, [stated(draws[0], laws)]) == {}


@pytest.mark.parametrize('case', CASES)
def test_new_classifiers_start_as_the_first_one(case: str, tmp_path: Path) -> None:
    """By `reset_classifier`, and by loading a file of another number of classes."""
    kwargs, laws = CASES[case]
    torch.manual_seed(0)
    reset = as_usual(**kwargs)
    save_file(reset.state_dict(), tmp_path / 'model.safetensors')
    reset.reset_classifier(50)
    overlay = dict(file=str(tmp_path / 'model.safetensors'), num_classes=100)
    args = {**STAGES, **kwargs, 'num_classes': 50}
    loaded = timm.create_model('coatnet_0', pretrained=True, pretrained_cfg_overlay=overlay, **args)
    for model in (reset, loaded):
        tensors = {f'head.fc.{name}': tensor for name, tensor in model.head.fc.state_dict().items()}
        assert len(tensors['head.fc.weight']) == 50
        assert differences([tensors], [stated(tensors, laws)]) == {}


def test_a_new_classifier_leaves_the_hidden_layer() -> None:
    model = as_usual(**CASES['keras_cv with a hidden layer'][0])
    before = model.head.pre_logits.fc.weight.clone()
    model.reset_classifier(7)
    assert torch.equal(model.head.pre_logits.fc.weight, before)


def test_a_configuration_of_no_listed_implementation_starts_as_timms() -> None:
    fields = {name: value for name, value in STAGES.items() if name != 'num_classes'}
    cfg: CoAtNetCfg = replace(resolve_cfg('coatnet_0', 'timm', **fields), impl='own')
    draws = [CoAtNet(cfg).state_dict() for _ in range(3)]
    assert differences(draws, [stated(draws[0], TIMM)]) == {}


def test_seeds_give_the_same_weights_as_ever() -> None:
    """The classifier is drawn last, so its values depend on all draws before it."""
    torch.manual_seed(0)
    model = timm.create_model('coatnet_0', impl='timm', **STAGES)
    expected = torch.tensor([-0.013241, 0.054087, 0.043765, 0.042851])
    torch.testing.assert_close(model.head.fc.weight[0, :4], expected, rtol=0, atol=1e-5)


# Against the codes themselves.


@pytest.mark.parametrize(
    'size, our_kwargs, name, their_kwargs',
    [
        ('coatnet_nano', dict(impl='timm'), 'coatnet_nano_rw_224', {}),
        ('coatnet_0', dict(impl='timm'), 'coatnet_0_rw_224', {}),
        ('coatnet_0', dict(impl='timm_bn'), 'coatnet_bn_0_rw_224', {}),
        ('coatnet_1', dict(impl='timm_rmlp'), 'coatnet_rmlp_1_rw_224', {}),
        ('coatnet_2', dict(impl='timm_rmlp'), 'coatnet_rmlp_2_rw_224', {}),
        ('coatnet_0', dict(impl='paper', shortcut_proj_always=False), 'coatnet_0_224', dict(head_hidden_size=128)),
    ],
)
def test_initial_weights_are_timms(
    size: str, our_kwargs: dict[str, Any], name: str, their_kwargs: dict[str, Any]
) -> None:
    kwargs = dict(STAGES, stem_width=(16, 32))
    torch.manual_seed(0)
    ours = [timm.create_model(size, **our_kwargs, **kwargs).state_dict() for _ in range(3)]
    theirs = [timm.create_model(name, **their_kwargs, **kwargs).state_dict() for _ in range(3)]
    # timm draws the biases of its MLPs with standard deviation 1e-6; ours are 0.
    mlps = [name for name in ours[0] if re.search(r'mlp\..*bias$', name)]
    assert mlps and all(values(theirs, name).abs().max() < 1e-5 for name in mlps)
    for draw in theirs:
        draw.update({name: torch.zeros_like(draw[name]) for name in mlps})
    assert differences(ours, theirs) == {}


def test_initial_weights_are_chinhsuanwus() -> None:
    code = originals.coatnet_pytorch()
    torch.manual_seed(0)
    ours = [timm.create_model('coatnet_0', impl='chinhsuanwu').state_dict() for _ in range(4)]
    theirs = [translate(Checkpoint(code.coatnet_0().state_dict())).tensors for _ in range(4)]
    assert differences(ours, theirs) == {}


def test_initial_weights_are_keras_cvs(tmp_path: Path) -> None:
    pytest.importorskip('h5py')
    folder = originals.keras_cv_models(tmp_path, {'0': dict(model='CoAtNet0', initial=True, input_shape=[160, 160, 3])})
    theirs = translate(read_checkpoint(folder / '0' / 'weights.h5')).tensors
    torch.manual_seed(0)
    ours = timm.create_model('coatnet_0', impl='keras_cv', img_size=160).state_dict()
    assert differences([ours], [theirs]) == {}


def test_training_steps_from_equal_weights_are_chinhsuanwus() -> None:
    code = originals.coatnet_pytorch()
    torch.manual_seed(0)
    theirs = code.CoAtNet((64, 64), 3, [2, 2, 2, 2, 1], [16, 24, 32, 48, 64], num_classes=10)
    kwargs = dict(stem_width=(16, 16), embed_dim=(24, 32, 48, 64), depths=(2, 2, 2, 1))
    ours = timm.create_model('coatnet_0', impl='chinhsuanwu', img_size=64, num_classes=10, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.05) for model in (ours, theirs)]
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    for _ in range(4):
        x, y = torch.randn(8, 3, 64, 64), torch.randint(10, (8,))
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    trained = translate(Checkpoint(theirs.state_dict())).tensors
    for name, tensor in ours.state_dict().items():
        assert not torch.equal(tensor, before[name]), name
        torch.testing.assert_close(tensor, trained[name], rtol=0, atol=1e-6, msg=name)
