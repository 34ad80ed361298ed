"""Registering the models when timm is imported, in an environment where a user has switched autoload on.

`coatnet-zoo autoload on` writes a `.pth` file with one line. The line imports this module whenever a Python of the
environment starts. So this module imports only `sys`, and an error of the package must not stop Python or timm.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing would make the start of Python too slow
    from typing import Any


class _TimmFinder:
    """A finder that lets the other finders find timm, and adds a step to the loading of timm."""

    def find_spec(self, name: str, path: 'Any' = None, target: 'Any' = None) -> 'Any':
        """The specification of timm from another finder; None for every other module."""
        if name != 'timm':
            return None
        others = (getattr(finder, 'find_spec', None) for finder in sys.meta_path if finder is not self)
        spec = next((spec for find in others if find and (spec := find(name, path, target))), None)
        if spec is not None and hasattr(spec.loader, 'exec_module'):
            self._register_after(spec.loader)
        return spec

    def _register_after(self, loader: 'Any') -> None:
        """Make a loader register the models once the loader has executed timm."""
        execute = loader.exec_module

        def execute_and_register(module: 'Any') -> None:
            del loader.exec_module
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                _register()

        loader.exec_module = execute_and_register


def _register() -> None:
    try:
        import coatnet_zoo  # noqa: F401
    except Exception as e:
        import warnings

        warnings.warn(
            f'coatnet-zoo cannot register its models with timm ({type(e).__name__}: {e}); install coatnet-zoo again, '
            'or switch the registration off with `coatnet-zoo autoload off`.',
            stacklevel=2,
        )


sys.meta_path.insert(0, _TimmFinder())
