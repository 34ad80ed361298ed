"""`coatnet-zoo run` and `python -m coatnet_zoo.run` are `python SCRIPT` with the models: output, errors, exit code."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import run_driver

COMMAND = [sys.executable, '-m', 'coatnet_zoo', 'run']
MODULE = [sys.executable, '-m', 'coatnet_zoo.run']
SCRIPTS = {
    'ends': 'print("done")',
    'error': 'def f():\n    1 / 0\n\nf()',
    'EOFError': 'input("name? ")',
    'KeyboardInterrupt': 'raise KeyboardInterrupt',
    'BrokenPipeError': 'raise BrokenPipeError(32, "Broken pipe")',
    'FileNotFoundError': 'open("of the script")',
    'exit 3': 'import sys; sys.exit(3)',
    'exit text': 'import sys; sys.exit("why")',
    'Abort': 'import click; raise click.Abort()',
    'a click command': (
        'import click\n@click.command()\n@click.argument("n", nargs=-1)\n'
        'def main(n): raise click.BadParameter(str(n))\nmain()'
    ),
    'chained': 'try:\n    {}["a"]\nexcept KeyError as e:\n    raise ValueError("b") from e',
    'SyntaxError': 'x = (\nprint(',
    'Latin-1': b'# -*- coding: latin-1 -*-\nprint(ascii("\xe9"))',
    'at exit': 'import atexit; atexit.register(print, "bye"); 1 / 0',
    'killed': 'import os, signal; os.kill(os.getpid(), signal.SIGTERM)',
    'names': 'import sys; print(__name__, __file__, __spec__, sys.argv[1:], sys.path)',
    'sibling': 'import sibling; print(sibling.NAME)',
    'pickle': 'import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A, A.__module__)',
    'inspect': 'import inspect\ndef f(): return 1\nprint(inspect.getsource(f))',
}


def run(folder: Path, *command: str) -> tuple[str, str, int]:
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors='replace', timeout=300
    )
    return done.stdout, done.stderr, done.returncode


def frames_of_the_script(err: str, folder: Path) -> str:
    """Tracebacks without the frames of other files, above which ours and those of runpy are."""
    err = err.replace('Traceback (most recent call last):\n', '')
    return re.sub(rf'  File "(?!{re.escape(str(folder))}).*\n(    .*\n)*', '', err)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork')
def test_output_errors_and_exit_code(tmp_path: Path) -> None:
    folders = [tmp_path / str(i) for i in range(len(SCRIPTS))]
    for folder, text in zip(folders, SCRIPTS.values(), strict=True):
        folder.mkdir()
        (folder / 'sibling.py').write_text("NAME = 'sibling'")
        (folder / 'script.py').write_bytes(text if isinstance(text, bytes) else text.encode())
    expected = [run(folder, sys.executable, *run_driver.ARGUMENTS) for folder in folders]
    for how in ('command', 'module'):
        assert run(tmp_path, sys.executable, run_driver.__file__, how, *map(str, folders)) == ('', '', 0)
        for case, folder, (out, err, code) in zip(SCRIPTS, folders, expected, strict=True):
            assert (folder / 'out').read_text() == out, (how, case)
            assert int((folder / 'code').read_text()) == code, (how, case)
            ours = frames_of_the_script((folder / 'err').read_text(), folder)
            assert ours == frames_of_the_script(err, folder), (how, case)


def test_the_script_and_its_children_have_the_models(tmp_path: Path) -> None:
    """With `sys.path` as of the script itself where the script is a link, and options that look like ours."""
    (tmp_path / 'sibling.py').write_text('NAME = 1')
    (tmp_path / 'real.py').write_text(
        'import multiprocessing as m, sys, sibling, timm\n'
        'def f(name): import timm; return name in timm.list_models(), sys.argv[1:], __name__\n'
        'if __name__ == "__main__":\n'
        '    import coatnet_zoo; print(f("coatnet_1"), coatnet_zoo.CoAtNet.__name__)\n'
        '    with m.get_context("forkserver").Pool(1) as p: print(p.map(f, ["coatnet_1"]))'
    )
    (tmp_path / 'links').mkdir()
    (tmp_path / 'links' / 'link.py').symlink_to(tmp_path / 'real.py')
    out, err, code = run(tmp_path, *COMMAND, 'links/link.py', '--help', 'coatnet_zoo')
    args = ['--help', 'coatnet_zoo']
    expected = f"(True, {args}, '__main__') CoAtNet\n" + f"[(True, {args}, '__mp_main__')]\n"
    assert (out, code) == (expected, 0), err


def test_the_module(tmp_path: Path) -> None:
    (tmp_path / 'script.py').write_text(
        'import json, sys, timm; print(json.dumps([sys.argv, timm.is_model("coatnet_1")]))'
    )
    out, err, code = run(tmp_path, *MODULE, 'script.py', '-m', 'x')
    assert code == 0 and json.loads(out) == [[str(tmp_path / 'script.py'), '-m', 'x'], True], err


def test_a_missing_script_is_one_line_at_once(tmp_path: Path) -> None:
    out, err, code = run(tmp_path, sys.executable, '-X', 'importtime', *COMMAND[1:], 'validate.py')
    (line,) = (line for line in err.splitlines() if not line.startswith('import time:'))
    assert (out, code) == ('', 1) and not re.search(r'\| +timm$', err, flags=re.MULTILINE)
    assert line.startswith("There is no script 'validate.py'; timm's scripts are in its repository")


def test_without_a_script_the_usage_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    from coatnet_zoo.run import main

    monkeypatch.setattr(sys, 'argv', ['run'])
    with pytest.raises(SystemExit, match=r'^usage: python -m coatnet_zoo.run SCRIPT \[ARGS...\]$'):
        main()
