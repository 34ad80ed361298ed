"""Programs that do not import this package have its models once `coatnet-zoo autoload on` was said."""

from pathlib import Path

import pytest
from clients import client, save, small
from environment import Environment
from paths import ROOT

client('transformers')
LOAD = """
import sys
from transformers import AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained(sys.argv[1])
print(model.config.id2label[2], type(model.timm_model).__module__)
"""


@pytest.fixture(scope='module')
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp('autoload') / 'env', ROOT / 'src')


def test_transformers(environment: Environment, tmp_path: Path) -> None:
    folder = save(small('ours'), tmp_path / 'folder')
    code, _, err = environment.run('-c', LOAD, folder)
    assert code == 1 and 'upgrade timm' in err
    environment.autoload('on')
    code, out, err = environment.run('-c', LOAD, folder)
    assert (code, out) == (0, 'red coatnet_zoo.network.model'), err
