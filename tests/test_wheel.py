"""The wheel has the weights, the command and links that work on the index, and loads a model outside the checkout."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from paths import ROOT

CODE = """
import coatnet_zoo, timm
print(coatnet_zoo.__file__, timm.create_model('coatnet_atto', pretrained=True).num_classes)
"""


def test_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--quiet', '--wheel-dir', str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, timeout=300)
    (wheel,) = tmp_path.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split('/')[0] for name in archive.namelist() if '.dist-info' not in name}
        archive.extractall(tmp_path / 'site')
    modules = {f'coatnet_zoo_{name}.py' for name in ('autoload', 'command', 'runtime')}
    assert top == {'coatnet_zoo', *modules}
    (info,) = (tmp_path / 'site').glob('*.dist-info')
    assert 'coatnet-zoo = coatnet_zoo_command:main' in (info / 'entry_points.txt').read_text()
    page = (info / 'METADATA').read_text(encoding='utf-8')
    links = re.findall(r'\]\(([^)]+)\)', page)
    assert len(links) >= 3 and all(link.startswith('https://') for link in links) and '![' not in page, links

    env = {**os.environ, 'PYTHONPATH': str(tmp_path / 'site')}
    for args in (['-c', CODE], ['-m', 'coatnet_zoo', 'info', 'coatnet_atto']):
        done = subprocess.run(
            [sys.executable, *args], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0 and str(tmp_path / 'site' / 'coatnet_zoo') in done.stdout, done.stderr
