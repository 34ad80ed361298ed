"""Running a script that uses timm and does not import this package: `python -m coatnet_zoo.run SCRIPT ARGS...`.

timm's `validate.py`, `inference.py` and `benchmark.py` have no option that imports a plugin. torchrun runs this module,
too: `torchrun --nproc-per-node 2 -m coatnet_zoo.run train.py ...`.
"""

import builtins
import importlib
import os
import sys
import types
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from multiprocessing import spawn
from pathlib import Path
from typing import Any


def check_script(script: str | os.PathLike) -> str:
    """Check that a script exists, before the models are imported, which takes seconds.

    Args:
        script: A Python file.

    Returns:
        The path as text.

    Raises:
        SystemExit: With a message, if the script does not exist.
    """
    script = os.fspath(script)
    if not os.path.isfile(script):
        sys.exit(
            f"There is no script {script!r}; timm's scripts are in its repository, "
            'https://github.com/huggingface/pytorch-image-models, not in its wheel.'
        )
    return script


def run_script(script: str | os.PathLike, args: Sequence[str] = ()) -> None:
    """Run a script as `python SCRIPT ARGS...` would, with the models of this package registered.

    The script sees the same `sys.argv`, `sys.path` and `__main__` as without this package. The exit code and exceptions
    of the script pass through, with the traceback of the script. Processes that the script starts by `multiprocessing`
    have the models, too. A program must call this function last, because the function replaces `__main__` and the first
    entry of `sys.path`.

    Args:
        script: A Python file.
        args: Arguments of the script.

    Raises:
        SystemExit: With a message, if the script does not exist.
    """
    script = check_script(script)
    path = os.path.abspath(script)
    if not getattr(sys.flags, 'safe_path', False):  # python -P, since 3.11
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    sys.argv = [script, *args]
    _register_in_children()
    # runpy.run_path would make sys.argv[0] absolute, or else leave __file__ relative.
    module = types.ModuleType('__main__')
    module.__file__ = path
    module.__cached__ = None
    module.__loader__ = SourceFileLoader('__main__', path)
    module.__builtins__ = builtins
    sys.modules['__main__'] = module
    try:
        exec(compile(Path(path).read_bytes(), path, 'exec', dont_inherit=True), module.__dict__)
    except BaseException as e:
        _show_only(e.__traceback__.tb_next)
        raise


def _show_only(traceback: types.TracebackType | None) -> None:
    """Make the interpreter leave the frames of this package out of the traceback that ends the program."""
    show = sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, _: types.TracebackType | None) -> None:
        show(kind, error.with_traceback(traceback), traceback)

    sys.excepthook = excepthook


def _register_in_children() -> None:
    """Make new processes of `multiprocessing` import this package before importing the script."""
    prepare = spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        # The child imports this package to unpickle the function. The child does not use the function.
        return {**prepare(name), 'coatnet_zoo': importlib.import_module('coatnet_zoo').list_impls}

    spawn.get_preparation_data = get_preparation_data


def main() -> None:
    """Entry point of `python -m coatnet_zoo.run`."""
    if len(sys.argv) < 2:
        sys.exit('usage: python -m coatnet_zoo.run SCRIPT [ARGS...]')
    run_script(sys.argv[1], sys.argv[2:])


if __name__ == '__main__':
    main()
