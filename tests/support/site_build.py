"""Building the site of this repository, or of a changed copy."""

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from paths import ROOT


@dataclass
class Built:
    """A built site: its folder, the seconds that the build took, its exit code and its output."""

    folder: Path
    seconds: float
    code: int
    output: str


def build(repository: Path, folder: Path) -> Built:
    """Build the site of a repository into a folder; without the generator, the test is skipped."""
    for module in ('material', 'mkdocstrings_handlers.python', 'latex2mathml'):
        pytest.importorskip(module, reason='needs the extra docs')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--site-dir', str(folder)]
    start = time.monotonic()
    done = subprocess.run(command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return Built(folder, time.monotonic() - start, done.returncode, done.stdout)


def copy_repository(copy: Path) -> None:
    """Copy the pages into a new folder, and link the rest."""
    shutil.copytree(ROOT / 'docs', copy / 'docs')
    for path in ROOT.iterdir():
        if path.name in ('LICENSE', 'src', 'scripts', 'tests', 'weights'):
            (copy / path.name).symlink_to(path)
        elif path.suffix in ('.md', '.yml'):
            shutil.copy(path, copy)
