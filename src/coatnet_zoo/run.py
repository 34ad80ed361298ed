"""Running a script that uses timm and does not import this package: `python -m coatnet_zoo.run SCRIPT ARGS...`.

timm's `validate.py`, `inference.py` and `benchmark.py` have no option that imports a plugin. torchrun takes this module
as well: `torchrun --nproc-per-node 2 -m coatnet_zoo.run train.py ...`.
"""

import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path


def run_script(script: str | os.PathLike, args: Sequence[str] = ()) -> None:
    """Run a script as `python SCRIPT ARGS...` would, with the models of this package registered.

    The script sees the same `sys.argv` and `sys.path[0]` as without this package, and its exit code and exceptions pass
    through.

    Args:
        script: A Python file.
        args: Arguments of the script.

    Raises:
        SystemExit: With a message, if there is no such file.
    """
    script = os.fspath(script)
    if not os.path.isfile(script):
        sys.exit(
            f"There is no script {script!r}; timm's scripts are in its repository, "
            'https://github.com/huggingface/pytorch-image-models, not in its wheel.'
        )
    path = os.path.abspath(script)
    sys.path.insert(0, os.path.dirname(path))
    sys.argv = [script, *args]
    # runpy.run_path would make sys.argv[0] absolute, or else leave __file__ relative.
    module = types.ModuleType('__main__')
    module.__file__ = path
    sys.modules['__main__'] = module
    exec(compile(Path(path).read_bytes(), path, 'exec'), module.__dict__)


def main() -> None:
    """Entry point of `python -m coatnet_zoo.run`."""
    if len(sys.argv) < 2:
        sys.exit('usage: python -m coatnet_zoo.run SCRIPT [ARGS...]')
    run_script(sys.argv[1], sys.argv[2:])


if __name__ == '__main__':
    main()
