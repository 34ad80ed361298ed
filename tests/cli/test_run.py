"""`coatnet-zoo run` and `python -m coatnet_zoo.run` leave a script everything it has when it is run alone."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from coatnet_zoo.run import main

MODULE = [sys.executable, '-m', 'coatnet_zoo.run']
COMMAND = [sys.executable, '-m', 'coatnet_zoo_command', 'run']
ARGS = ['--model', 'coatnet_1', '-h', '--help', '--', 'x y', '', '--version', 'run']
SCRIPT = """
import json, sys
import sibling
registered = 'timm' in sys.modules and 'coatnet_1' in sys.modules['timm'].list_models()
print(json.dumps([__name__, __file__, sys.argv, sys.path[0], sibling.NAME, registered]))
sys.exit(7)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / 'sibling.py').write_text("NAME = 'sibling'")
    (tmp_path / 'script.py').write_text(SCRIPT)
    return tmp_path / 'script.py'


def run(*command: str | Path, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **kwargs)


@pytest.mark.parametrize('prefix, relative', [(MODULE, False), (COMMAND, True)], ids=['module', 'command'])
def test_script_runs_as_if_alone_but_with_our_models(script: Path, prefix: list[str], relative: bool) -> None:
    path = script.name if relative else str(script)
    alone = run(sys.executable, path, *ARGS, cwd=script.parent)
    ours = run(*prefix, path, *ARGS, cwd=script.parent)
    assert alone.returncode == ours.returncode == 7, ours.stderr
    *expected, registered = json.loads(alone.stdout)
    assert not registered
    assert json.loads(ours.stdout) == [*expected, True]


def test_missing_script_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command says so before it imports timm."""
    said = f"There is no script '{tmp_path}/validate.py'; timm's scripts are in its repository"
    result = run(*COMMAND[:1], '-X', 'importtime', *COMMAND[1:], tmp_path / 'validate.py')
    lines = [line for line in result.stderr.splitlines() if not line.startswith('import time:')]
    assert result.returncode == 1 and result.stdout == ''
    assert len(lines) == 1 and lines[0].startswith(said)
    assert not re.search(r'\| +timm$', result.stderr, flags=re.MULTILINE)
    monkeypatch.setattr(sys, 'argv', ['run', str(tmp_path / 'validate.py')])
    with pytest.raises(SystemExit, match=re.escape(said)):
        main()


def test_without_a_script_the_usage_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'argv', ['run'])
    with pytest.raises(SystemExit, match=r'^usage: python -m coatnet_zoo.run SCRIPT \[ARGS...\]$'):
        main()
