"""What MODEL may be: a name, a tag, a folder, or a checkpoint; each of them the same network with the same weights."""

import shutil
from pathlib import Path

import pytest
import timm
import torch
from hub_server import HubServer
from paths import DATA
from timm.models import save_for_hf

from coatnet_zoo import CheckpointError
from coatnet_zoo.factory import load_model

NAMES = ('coatnet_atto', 'coatnet_atto.digits', 'folder', 'local-dir:folder', 'state.pth', 'training.pth.tar')


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> timm.models.PretrainedCfg:
    """The bundled model, in all forms that MODEL may have, in the current folder."""
    monkeypatch.chdir(tmp_path)
    model = timm.create_model('coatnet_atto.digits', pretrained=True).eval()
    save_for_hf(model, 'folder', safe_serialization=True)
    torch.save(model.state_dict(), 'state.pth')
    torch.save({'epoch': 3, 'arch': 'coatnet_atto', 'state_dict': model.state_dict()}, 'training.pth.tar')
    return model


@torch.no_grad()
def test_all_sources_are_the_same_model(digits: torch.nn.Module) -> None:
    Path('coatnet_atto').mkdir()  # a name is a name, whatever lies in the current folder
    x = torch.randn(2, 1, 64, 64)
    for name in NAMES:
        model = load_model(name)
        assert not model.training, name
        torch.testing.assert_close(model(x), digits(x), rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_third_party_checkpoint() -> None:
    expected = torch.load(DATA / 'chinhsuanwu_digits_64_expected.pt', weights_only=True)
    model = load_model(str(DATA / 'chinhsuanwu_digits_64.pth'))
    torch.testing.assert_close(model(expected['x']), expected['logits'], rtol=0, atol=1e-4)


ODD = ('', 'empty', 'missing.pth', 'x' * 5000, 'a\nb', 'local-dir:', 'local-dir:a\0b', 'coatnet_0.\udcff', '$', '{}')


@pytest.mark.parametrize(
    'name, said',
    [
        ('coatnet_atto.birds', "The model 'coatnet_atto.birds' cannot be loaded"),
        ('coatnet_5', 'No weights are published for coatnet_5'),
        ('local-dir:/no/such/folder', '/no/such/folder'),
        ('image.png', 'image.png is a corrupt or truncated'),
        ('my/folder', "Use 'hf-hub:my/folder'"),
        *((name, 'cannot be loaded') for name in ODD),
    ],
)
def test_what_is_no_model(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('empty').mkdir()
    shutil.copy(DATA / 'digits' / '7_row1496.png', 'image.png')
    with pytest.raises(CheckpointError) as caught:
        load_model(name)
    assert said in str(caught.value) and str(caught.value).isprintable() and len(str(caught.value)) < 3000
    assert hub.requests == []
