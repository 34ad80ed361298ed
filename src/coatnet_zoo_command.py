"""The `coatnet-zoo` command, which starts fast if no network has to be built.

`import coatnet_zoo` registers the models with timm. The registration imports timm and torch, which takes seconds.
Listing and downloading do not need the registration. The flag below tells `coatnet_zoo/__init__.py` to skip it.
"""

import errno
import importlib
import sys
from collections.abc import Callable

# Whether `import coatnet_zoo` leaves out the registration of the models. `python -m coatnet_zoo` imports the package
# before its `__main__`; until then `sys.argv` begins with '-m', in place of the module's name.
without_models = sys.argv[:1] == ['-m'] and sys.orig_argv[-len(sys.argv)] == 'coatnet_zoo'
# The function to call after the command line: it runs the script of `coatnet-zoo run` outside the error handling.
afterwards: Callable[[], None] | None = None


def main() -> None:
    """Entry point of the console script and of `python -m coatnet_zoo`."""
    global without_models
    without_models = True
    from coatnet_zoo.cli import main

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors='backslashreplace')  # a console may not have the characters of a label or a file
    try:
        main()
    except SystemExit:
        if afterwards is None:
            raise
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
        sys.exit(f'Error: the output cannot be written: {e.strerror}.')
    if afterwards is not None:
        afterwards()


def import_models() -> None:
    """Register the models, which the command has not done yet."""
    importlib.import_module('coatnet_zoo.factory')
