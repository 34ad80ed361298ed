"""`coatnet-zoo run` and `python -m coatnet_zoo.run` are `python SCRIPT`: output, traceback and exit code, case by case.

See tests/support/run_driver.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import run_driver

COMMAND = [sys.executable, '-m', 'coatnet_zoo_command', 'run']
SCRIPTS = {
    'ends': 'print("done")',
    'error': 'def f():\n    1 / 0\n\nf()',
    'EOFError': 'input("name? ")',
    'KeyboardInterrupt': 'raise KeyboardInterrupt',
    'BrokenPipeError': 'raise BrokenPipeError(32, "Broken pipe")',
    'OSError': 'raise OSError(28, "full")',
    'FileNotFoundError': 'open("of the script")',
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
    'closed output': 'import sys\nsys.stdout.close()',
}


def run(folder: Path, *command: str) -> tuple[str, str, int]:
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors='replace', timeout=100
    )
    return done.stdout, done.stderr, done.returncode


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork')
@pytest.mark.parametrize('how', ['command', 'module'])
def test_output_traceback_and_exit_code(how: str, tmp_path: Path) -> None:
    folders = [tmp_path / str(i) for i in range(len(SCRIPTS))]
    for folder, text in zip(folders, SCRIPTS.values(), strict=True):
        folder.mkdir()
        (folder / 'sibling.py').write_text("NAME = 'sibling'")
        (folder / 'script.py').write_bytes(text if isinstance(text, bytes) else text.encode())
    _, err, code = run(tmp_path, sys.executable, run_driver.__file__, how, *map(str, folders))
    assert (err, code) == ('', 0)
    different = []
    for case, folder in zip(SCRIPTS, folders, strict=True):
        alone = run(folder, sys.executable, *run_driver.ARGUMENTS)
        out, err = ((folder / name).read_text(errors='replace') for name in ('out', 'err'))
        ours = (out, err, int((folder / 'code').read_text()))
        if ours != alone:
            different.append((case, alone, ours))
    assert different == []


def test_children_of_the_script_have_the_models(tmp_path: Path) -> None:
    (tmp_path / 'sibling.py').write_text('NAME = 1')
    (tmp_path / 'real.py').write_text(
        'import multiprocessing as m, sys, sibling\n'
        'def f(name): import timm; return name in timm.list_models(), sys.argv[1:], __name__\n'
        'if __name__ == "__main__":\n'
        '    for method in ("spawn", "forkserver"):\n'
        '        with m.get_context(method).Pool(1) as p: print(p.map(f, ["coatnet_1"]))'
    )
    (tmp_path / 'links').mkdir()
    (tmp_path / 'links' / 'link.py').symlink_to(tmp_path / 'real.py')
    out, err, code = run(tmp_path, *COMMAND, 'links/link.py', 'x')
    assert (out, code) == ("[(True, ['x'], '__mp_main__')]\n" * 2, 0), err
