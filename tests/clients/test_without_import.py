"""Programs that do not import this package have its models once `coatnet-zoo autoload on` was said."""

import os
import subprocess
from pathlib import Path

import pytest
from clients import client, save, small
from environment import Environment
from pages import blocks
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


def test_the_commands_of_the_page(environment: Environment) -> None:
    (commands,) = (block.code for block in blocks('docs/ecosystem.md') if block.language == 'sh')
    script = environment.python.with_name('coatnet-zoo')
    script.write_text(f'#!{environment.python}\nimport coatnet_zoo_command\ncoatnet_zoo_command.main()\n')
    script.chmod(0o755)
    env = {**os.environ, 'PATH': f'{script.parent}{os.pathsep}{os.environ["PATH"]}', 'PYTHONPATH': ''}
    done = subprocess.run(['bash', '-euc', commands], env=env, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, '')
    assert [line.split(' in ')[0].split(':')[0] for line in done.stdout.splitlines()] == [
        'autoload is on',
        'autoload is off',
    ]
