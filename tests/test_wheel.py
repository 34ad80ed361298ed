"""The wheel holds what the package needs and works outside the checkout."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from paths import ROOT

SCRIPT = """
import coatnet_zoo, timm, torch
print(coatnet_zoo.__file__)
model = timm.create_model('coatnet_atto.digits', pretrained=True)
print(model(torch.zeros(1, 1, 64, 64)).shape[1])
"""


def test_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--quiet', '--wheel-dir', str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, timeout=300)
    (wheel,) = tmp_path.glob('*.whl')
    site = tmp_path / 'site'
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    assert 'coatnet_zoo/weights/coatnet_atto.digits/model.safetensors' in names
    modules = {'coatnet_zoo', 'coatnet_zoo_autoload.py', 'coatnet_zoo_command.py'}
    assert {n.split('/')[0] for n in names if '.dist-info' not in n} == modules
    entry_points = next(site.glob('*.dist-info/entry_points.txt')).read_text()
    assert 'coatnet-zoo = coatnet_zoo_command:main' in entry_points

    page = next(site.glob('*.dist-info/METADATA')).read_text(encoding='utf-8')
    links = re.findall(r'\]\(([^)]+)\)', page)
    assert len(links) > 20 and all(link.startswith('https://') for link in links), links

    env = {**os.environ, 'PYTHONPATH': str(site)}
    result = subprocess.run(
        [sys.executable, '-c', SCRIPT], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(site / 'coatnet_zoo' / '__init__.py'), '10']
    listing = [sys.executable, '-m', 'coatnet_zoo_command', 'info', 'coatnet_atto']
    result = subprocess.run(listing, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert str(site / 'coatnet_zoo' / 'weights' / 'coatnet_atto.digits') in result.stdout
