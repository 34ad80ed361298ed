"""`python -m coatnet_zoo`: the command, which imports only what it needs, and registers the models for scripts."""

import subprocess
import sys
from pathlib import Path

import coatnet_zoo
from coatnet_zoo.version import __version__


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=120)


def test_it_is_the_command() -> None:
    done = run('-X', 'importtime', '-m', 'coatnet_zoo', 'info', 'coatnet_1')
    assert done.returncode == 0 and done.stdout.startswith('name:           coatnet_1.sw_in1k\n')
    imported = {line.rpartition('|')[2].strip() for line in done.stderr.splitlines()}
    assert 'click' in imported and not {'torch', 'timm'} & imported
    assert run('-m', 'coatnet_zoo', '--version').stdout == f'python -m coatnet_zoo, version {__version__}\n'
    assert run('-m', 'coatnet_zoo', 'info', 'coatnet1').returncode == 1


def test_scripts_have_the_models(tmp_path: Path) -> None:
    script = tmp_path / 'script.py'
    script.write_text("import sys, timm; print(timm.is_model('coatnet_1'), *sys.argv[1:])")
    done = run('-m', 'coatnet_zoo', 'run', str(script), '--device-modules', 'coatnet_zoo')
    assert done.stdout == 'True --device-modules coatnet_zoo\n', done.stderr


def test_version() -> None:
    assert coatnet_zoo.__version__ == __version__
