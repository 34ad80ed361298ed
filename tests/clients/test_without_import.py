"""Programs that do not import this package have its models after `coatnet-zoo autoload on`, as the page says."""

import os
import subprocess
from pathlib import Path

from environment import Environment
from pages import blocks
from paths import ROOT


def test_the_commands_of_the_page(tmp_path: Path) -> None:
    environment = Environment(tmp_path / 'env', ROOT / 'src')
    (commands,) = (block.code for block in blocks('docs/ecosystem.md') if block.language == 'sh')
    script = environment.python.with_name('coatnet-zoo')
    script.write_text(f'#!{environment.python}\nimport coatnet_zoo_command\ncoatnet_zoo_command.main()\n')
    script.chmod(0o755)
    env = {**os.environ, 'PATH': f'{script.parent}{os.pathsep}{os.environ["PATH"]}', 'PYTHONPATH': ''}
    done = subprocess.run(['bash', '-euc', commands], env=env, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, '')
    shown = [line.split(' in ')[0].split(':')[0] for line in done.stdout.splitlines()]
    assert shown == ['autoload is on', 'autoload is off']
