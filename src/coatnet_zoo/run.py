"""Running a script that uses timm and does not import this package: `python -m coatnet_zoo.run SCRIPT ARGS...`.

timm's `validate.py`, `inference.py` and `benchmark.py` have no option that imports a plugin. torchrun runs this module,
too: `torchrun --nproc-per-node 2 -m coatnet_zoo.run train.py ...`.
"""

import importlib
import os
import runpy
import sys
from collections.abc import Sequence
from multiprocessing import spawn
from typing import Any


def check_script(script: str | os.PathLike) -> None:
    """Exit with a message if there is no such script, before the models are imported, which takes seconds."""
    if not os.path.isfile(script):
        sys.exit(
            f"There is no script '{os.fspath(script)}'; timm's scripts are in its repository, "
            'https://github.com/huggingface/pytorch-image-models, not in its wheel.'
        )


def run_script(script: str | os.PathLike, args: Sequence[str] = ()) -> None:
    """Run a script as `python SCRIPT ARGS...` would, with the models of this package registered.

    The exit code and exceptions of the script pass through. Processes that the script starts by `multiprocessing` have
    the models, too. `sys.argv[0]` is the absolute path of the script.
    """
    check_script(script)
    if not getattr(sys.flags, 'safe_path', False):  # python -P, since 3.11
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    sys.argv[1:] = args
    _register_in_children()
    runpy.run_path(os.path.abspath(script), run_name='__main__')


def _register_in_children() -> None:
    """Make new processes of `multiprocessing` import this package before the script."""
    prepare = spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        # The child imports this package to unpickle the function, which it does not use.
        return {**prepare(name), 'coatnet_zoo': importlib.import_module('coatnet_zoo').list_impls}

    spawn.get_preparation_data = get_preparation_data


def main() -> None:
    """Entry point of `python -m coatnet_zoo.run`."""
    if len(sys.argv) < 2:
        sys.exit('usage: python -m coatnet_zoo.run SCRIPT [ARGS...]')
    run_script(sys.argv[1], sys.argv[2:])


if __name__ == '__main__':
    main()
