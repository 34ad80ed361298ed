"""The folders of the repository, its test data and its scripts."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = ROOT / 'tests' / 'data'
SCRIPTS = ROOT / 'scripts'
SUPPORT = ROOT / 'tests' / 'support'
