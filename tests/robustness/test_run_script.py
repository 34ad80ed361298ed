"""`coatnet-zoo run` and `python -m coatnet_zoo.run` are `python SCRIPT`: output, traceback and exit code, case by case.

Most cases run with a stand-in for the registration of the models, because importing torch takes seconds.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = [sys.executable, '-m', 'coatnet_zoo.run']
COMMAND = [sys.executable, '-m', 'coatnet_zoo_command', 'run']
# Python imports sitecustomize at its start: here are no models to register.
CHEAP = """
import coatnet_zoo_command
coatnet_zoo_command.without_models = True
coatnet_zoo_command.import_models = lambda: None
"""
SCRIPTS = {
    'ends': 'print("done")',
    'error': 'def f():\n    1 / 0\n\nf()',
    'EOFError': 'input("name? ")',
    'KeyboardInterrupt': 'raise KeyboardInterrupt',
    'BrokenPipeError': 'raise BrokenPipeError(32, "Broken pipe")',
    'OSError': 'raise OSError(28, "full")',
    'exit 3': 'import sys; sys.exit(3)',
    'exit text': 'import sys; sys.exit("why")',
    'exit None': 'import sys; print("x"); sys.exit(None)',
    'exit True': 'raise SystemExit(True)',
    'exit object': 'raise SystemExit((1, 2))',
    'UsageError': 'import click; raise click.UsageError("usage")',
    'Abort': 'import click; raise click.Abort()',
    'ClickException': 'import click; raise click.ClickException("said")',
    'click Exit': 'import click; raise click.exceptions.Exit(4)',
    'a click command': (
        'import click\n@click.command()\n@click.argument("n", nargs=-1)\n'
        'def main(n): raise click.BadParameter(str(n))\nmain()'
    ),
    'chained': 'try:\n    {}["a"]\nexcept KeyError as e:\n    raise ValueError("b") from e',
    'group': 'raise BaseExceptionGroup("g", [ValueError(1), KeyboardInterrupt()])',
    'SyntaxError': 'x = (\nprint(',
    'IndentationError': 'if 1:\nx',
    'no UTF-8': b'x = "\xff"',
    'Latin-1': b'# -*- coding: latin-1 -*-\nprint(ascii("\xe9"))',
    'excepthook': 'import sys, traceback\nsys.excepthook = lambda *a: traceback.print_exception(*a)\n1 / 0',
    'at exit': 'import atexit; atexit.register(print, "bye"); 1 / 0',
    'thread': 'import threading\nt = threading.Thread(target=lambda: 1 / 0, name="T"); t.start(); t.join()',
    'killed': 'import os, signal; os.kill(os.getpid(), signal.SIGTERM)',
    'main': 'if __name__ == "__main__": print(__name__, __file__, __spec__, __cached__, __package__, __doc__)',
    'loader': 'print(type(__loader__).__name__, __loader__.name, __loader__.path, __builtins__.__name__)',
    'argv': 'import sys; print(sys.argv, sys.path[0], sys.flags)',
    'path': 'import sys; print(sys.path)',
    'relative import': 'from . import sibling',
    'sibling': 'import sibling; print(sibling.NAME)',
    'pickle': 'import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A, A.__module__)',
    'import main': 'X = 5\nimport __main__; print(__main__.X, __main__.__dict__ is globals())',
    'inspect': 'import inspect\ndef f(): return 1\nprint(inspect.getsource(f))',
    'annotations': 'x: int = 1\nprint(__annotations__)',
    'future': 'def f(x: undefined): pass' if sys.version_info < (3, 14) else 'x: undefined = 1',
    'warning': 'import warnings; warnings.warn("careful")',
    'spawn': (
        'import multiprocessing as m\ndef f(x): return x + 1\nif __name__ == "__main__":\n'
        '    with m.get_context("spawn").Pool(1) as p: print(p.map(f, [1, 2]))'
    ),
    'closed output': 'import sys\nsys.stdout.close()',
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / 'cheap').mkdir()
    (tmp_path / 'cheap' / 'sitecustomize.py').write_text(CHEAP)
    (tmp_path / 'sibling.py').write_text("NAME = 'sibling'")
    return tmp_path


def run(place: Path, command: list[str], cheap: bool = True) -> tuple[str, str, int]:
    paths = [str(place / 'cheap')] * cheap + os.environ.get('PYTHONPATH', '').split(os.pathsep)
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths)}
    done = subprocess.run(
        command, cwd=place, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    return done.stdout, done.stderr, done.returncode


@pytest.mark.parametrize('case', SCRIPTS)
def test_output_traceback_and_exit_code(case: str, place: Path) -> None:
    text = SCRIPTS[case]
    (place / 'script.py').write_bytes(text if isinstance(text, bytes) else text.encode())
    arguments = ['script.py', '-h', '--', 'x y']
    alone = run(place, [sys.executable, *arguments])
    for prefix in (COMMAND, MODULE):
        assert run(place, [*prefix, *arguments]) == alone


def test_a_link_to_a_script_finds_the_siblings_of_the_script(place: Path) -> None:
    (place / 'elsewhere').mkdir()
    (place / 'script.py').write_text('import sys, sibling; print(sys.argv, sys.path[0], __file__)')
    (place / 'elsewhere' / 'link.py').symlink_to(place / 'script.py')
    alone = run(place, [sys.executable, 'elsewhere/link.py'])
    assert alone[2] == 0 and run(place, [*COMMAND, 'elsewhere/link.py']) == alone


@pytest.mark.parametrize('method', ['spawn', 'forkserver'])
def test_children_of_the_script_have_the_models(method: str, place: Path) -> None:
    (place / 'script.py').write_text(
        'import multiprocessing as m, sys\n'
        'def f(name): import timm; return name in timm.list_models(), sys.argv[1:], __name__\n'
        'if __name__ == "__main__":\n'
        f'    with m.get_context("{method}").Pool(1) as p: print(p.map(f, ["coatnet_1"]))'
    )
    out, err, code = run(place, [*COMMAND, 'script.py', 'x'], cheap=False)
    assert (out, code) == ("[(True, ['x'], '__mp_main__')]\n", 0), err
