"""`coatnet-zoo run` and `python -m coatnet_zoo.run` leave a script everything it has when it is run alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_exceptions_pass_through(tmp_path: Path) -> None:
    script = tmp_path / 'script.py'
    script.write_text("raise FileNotFoundError('of the script')")
    result = run(*COMMAND, script)
    assert result.returncode == 1 and result.stderr.endswith('FileNotFoundError: of the script\n')
    assert f'File "{script}", line 1' in result.stderr


@pytest.mark.parametrize('prefix', [MODULE, COMMAND], ids=['module', 'command'])
def test_missing_script_is_one_sentence(tmp_path: Path, prefix: list[str]) -> None:
    result = run(*prefix, tmp_path / 'validate.py')
    assert result.returncode == 1 and result.stdout == ''
    assert result.stderr.startswith(
        f"There is no script '{tmp_path}/validate.py'; timm's scripts are in its repository"
    )
    assert result.stderr.count('\n') == 1


def test_without_a_script_the_usage_is_shown() -> None:
    result = run(*MODULE)
    assert result.returncode == 1 and result.stderr == 'usage: python -m coatnet_zoo.run SCRIPT [ARGS...]\n'
