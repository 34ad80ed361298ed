"""Weights from files: taken as they are, without drawing random ones first; what a file lacks is initialised."""

import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hub_server import HubServer
from paths import DATA
from peers import randomize_
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from coatnet_zoo import HubError

STAGES = dict(stem_width=(16, 24), embed_dim=(32, 32, 64, 96), depths=(1, 2, 2, 1), img_size=64)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model = randomize_(timm.create_model('coatnet_1', num_classes=1000, **STAGES))
    save_file(model.state_dict(), tmp_path / 'weights.safetensors')
    return tmp_path / 'weights.safetensors'


def load(file: Path, **kwargs) -> torch.nn.Module:
    overlay = dict(file=str(file), num_classes=1000)
    return timm.create_model('coatnet_1', pretrained=True, pretrained_cfg_overlay=overlay, **{**STAGES, **kwargs})


def test_all_tensors_are_those_of_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tensor: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        assert tensor.is_meta, 'random numbers were drawn for weights that the file has'
        return tensor

    for name in ('normal_', 'xavier_uniform_', 'kaiming_uniform_', 'uniform_'):
        monkeypatch.setattr(torch.nn.init, name, refuse)
    model = load(file)
    expected = load_file(file)
    assert model.state_dict().keys() == expected.keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[key]), key
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.skipif(sys.platform != 'linux', reason='looks at /proc')
def test_the_file_is_mapped_instead_of_copied(file: Path) -> None:
    model = load(file)
    assert str(file) in Path('/proc/self/maps').read_text()
    del model


def test_new_parts_are_initialised(file: Path) -> None:
    model = load(file, num_classes=500)
    weight, bias = model.head.fc.weight, model.head.fc.bias
    bound = weight.shape[1] ** -0.5
    assert weight.shape == (500, 96) and weight.device.type == 'cpu'
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05) and weight.abs().max() <= bound
    assert bias.isfinite().all() and bias.abs().max() <= bound
    torch.testing.assert_close(model.stem.conv1.weight, load_file(file)['stem.conv1.weight'])
    assert load(file, num_classes=0).eval()(torch.randn(1, 3, 64, 64)).shape == (1, 96)
    overlay = dict(file=str(file), num_classes=-1)  # of train.py's --pretrained-path
    assert timm.create_model('coatnet_1', pretrained=True, pretrained_cfg_overlay=overlay, **STAGES).num_classes == 1000


def test_weights_of_an_overlay_replace_those_of_the_name(hub: HubServer) -> None:
    with pytest.raises(HubError, match='me/mine'):
        timm.create_model('coatnet_atto', pretrained=True, pretrained_cfg_overlay=dict(hf_hub_id='me/mine'))


def test_precision_and_device_are_those_asked_for(file: Path) -> None:
    half = file.with_name('half.safetensors')
    save_file({k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()}, half)
    assert {p.dtype for p in load(half).parameters()} == {torch.float32}
    assert {p.dtype for p in load(file, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}
    assert {p.device.type for p in load(file, device='meta').parameters()} == {'meta'}
    with torch.device('meta'):
        assert {p.device.type for p in load(file).parameters()} == {'meta'}


def test_training_changes_neither_the_file_nor_tensors_handed_over(file: Path) -> None:
    before = load_file(file)
    handed_over = {k: v.clone() for k, v in before.items()}
    overlay = dict(state_dict=handed_over, num_classes=1000)
    other = timm.create_model('coatnet_1', pretrained=True, pretrained_cfg_overlay=overlay, **STAGES)
    for model in (load(file), other):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.randn(2, 3, 64, 64)).square().mean().backward()
        optimizer.step()
        assert not torch.equal(model.stem.conv1.weight, before['stem.conv1.weight'])
    for key, tensor in load_file(file).items():
        assert torch.equal(tensor, before[key]) and torch.equal(handed_over[key], before[key])


def test_a_model_can_be_saved_over_the_file_it_came_from(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'model'
    save_for_hf(load(file), folder, safe_serialization=True)
    model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    with torch.no_grad():
        model.head.fc.bias.fill_(7)
    save_for_hf(model, folder, safe_serialization=True)
    again = timm.create_model(f'local-dir:{folder}', pretrained=True)
    assert (again.head.fc.bias == 7).all()
    torch.testing.assert_close(again.stem.conv1.weight, load_file(file)['stem.conv1.weight'])


CHINHSUANWU = dict(impl='chinhsuanwu', stem_width=(16, 16), embed_dim=(16, 32, 64, 96), depths=(2, 2, 3, 2), in_chans=1)
KERAS_CV = dict(impl='keras_cv', stem_width=16, embed_dim=(32, 48, 64, 96), depths=(1, 2, 2, 1))


@pytest.mark.parametrize('name', ['chinhsuanwu_digits_64.pth', 'keras_cv_small.h5', 'keras_cv_small_weights_only.h5'])
def test_files_of_third_party_codes(name: str) -> None:
    if name.endswith('.pth'):
        arguments, expected = CHINHSUANWU, torch.load(DATA / 'chinhsuanwu_digits_64_expected.pt', weights_only=True)
        x, logits = expected['x'], expected['logits']
    else:
        arguments, expected = KERAS_CV, np.load(DATA / 'keras_cv_small_expected.npz')
        x, logits = torch.tensor(expected['x']).permute(0, 3, 1, 2), torch.tensor(expected['logits'])
    sizes = dict(num_classes=10, img_size=64)
    overlay = dict(file=DATA / name, num_classes=10, input_size=(x.shape[1], 64, 64))
    model = timm.create_model('coatnet_0', pretrained=True, pretrained_cfg_overlay=overlay, **arguments, **sizes)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(x), logits, rtol=0, atol=1e-4)


def test_a_state_dict_replaces_the_file_of_a_name() -> None:
    source = randomize_(timm.create_model('coatnet_atto'))
    overlay = dict(state_dict=source.state_dict())
    model = timm.create_model('coatnet_atto', pretrained=True, pretrained_cfg_overlay=overlay).eval()
    x = torch.rand(2, 1, 64, 64)
    assert torch.equal(model(x), source(x))
