"""The `coatnet-zoo` command, which answers at once where no network has to be built.

`import coatnet_zoo` registers the models with timm. That imports timm and torch, which takes seconds that listing and
downloading do not need. The flag below tells `coatnet_zoo/__init__.py` to leave that out.
"""

import importlib
import sys
from collections.abc import Callable

# Whether `import coatnet_zoo` leaves out the registration of the models and the public names.
without_models = False
# What to call when the command line has done its work: a script of `coatnet-zoo run`, whose errors are its own.
afterwards: Callable[[], None] | None = None


def main() -> None:
    """Entry point of the console script."""
    global without_models
    without_models = True
    from coatnet_zoo.commands import main

    try:
        main()
    except SystemExit:
        if afterwards is None:
            raise
    if afterwards is not None:
        afterwards()


def import_models() -> None:
    """Complete `coatnet_zoo`, for scripts that run inside the command: models are registered, public names exist."""
    global without_models
    if without_models:
        without_models = False
        importlib.reload(sys.modules['coatnet_zoo'])


if __name__ == '__main__':
    # The package must see the flag of this very module.
    sys.modules['coatnet_zoo_command'] = sys.modules['__main__']
    main()
