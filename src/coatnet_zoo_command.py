"""The `coatnet-zoo` command, which answers at once where no network has to be built.

Importing `coatnet_zoo` registers its models with timm, which means importing timm and torch: seconds, that listing or
downloading need not take. So the package is made known to Python without being run; its modules import as usual, and
`coatnet_zoo.commands` runs the package itself for the commands that need it.
"""

import importlib.util
import sys


def announce_package() -> None:
    """Let the modules of `coatnet_zoo` be imported without the package itself being run."""
    spec = importlib.util.find_spec('coatnet_zoo')
    sys.modules['coatnet_zoo'] = importlib.util.module_from_spec(spec)


def main() -> None:
    """Entry point of the console script."""
    announce_package()
    from coatnet_zoo.commands.main import main

    main()


if __name__ == '__main__':
    main()
