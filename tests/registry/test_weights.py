"""The table of published weights against timm's own configurations, and the accuracy of the bundled weights."""

import pytest
import timm
from timm.models import get_pretrained_cfg

from coatnet_zoo.registry import WEIGHTS, bundled_file
from scripts.train_digits import digits, measure

OF_TIMM = [name for name, weights in WEIGHTS.items() if (weights.hf_hub_id or '').startswith('timm/')]


@pytest.mark.parametrize('name', OF_TIMM)
def test_configuration_is_timms(name: str) -> None:
    ours, theirs = get_pretrained_cfg(name), get_pretrained_cfg(WEIGHTS[name].hf_hub_id.removeprefix('timm/'))
    for field in (
        'hf_hub_id', 'num_classes', 'input_size', 'pool_size', 'crop_pct', 'crop_mode',
        'interpolation', 'mean', 'std', 'first_conv', 'classifier', 'license',
    ):  # fmt: skip
        assert getattr(ours, field) == getattr(theirs, field), field
    assert ours.hf_hub_filename == 'model.safetensors'
    assert theirs.fixed_input_size and not ours.fixed_input_size


def test_bundled_weights_read_the_held_out_digits() -> None:
    """The bundled file has the accuracy that the model card and the table state, at least 98.5 %."""
    x, classes = digits(train=False)
    assert len(x) == 360
    _, top1 = measure(timm.create_model('coatnet_atto.digits', pretrained=True), x, classes)
    assert top1 >= 98.5
    assert top1 == pytest.approx(WEIGHTS['coatnet_atto.digits'].top1, abs=0.01)
    card = bundled_file('coatnet_atto.digits').with_name('README.md').read_text()
    assert f'{top1:.2f} % top-1' in card
