"""The bundled model, which tells digits apart."""

import pytest
import timm

from coatnet_zoo import CoAtNet


@pytest.fixture
def digits() -> CoAtNet:
    return timm.create_model('coatnet_atto.digits', pretrained=True).eval()
