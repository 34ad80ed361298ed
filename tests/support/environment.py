"""A fresh environment of Python, in which a test may switch `coatnet-zoo autoload` on."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path


class Environment:
    """A fresh environment that has this package and its requirements, but no trace of `autoload`."""

    def __init__(self, folder: Path, source: Path) -> None:
        subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
        self.python = folder / 'bin' / 'python'
        (self.packages,) = folder.glob('lib/python*/site-packages')
        paths = f'{source}\n{sysconfig.get_paths()["purelib"]}\n'
        (self.packages / '_paths.pth').write_text(paths, encoding='utf-8')

    def run(self, *args: str | Path) -> tuple[int, str, str]:
        """Exit code, output and error output of Python."""
        env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
        done = subprocess.run([self.python, *args], capture_output=True, text=True, env=env, timeout=120)
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    def autoload(self, action: str) -> str:
        """What `coatnet-zoo autoload` prints."""
        code, out, err = self.run('-m', 'coatnet_zoo', 'autoload', action)
        assert (code, err) == (0, '')
        return out

    @property
    def files(self) -> list[str]:
        return sorted(p.name for p in self.packages.iterdir() if 'autoload' in p.name)
