"""Registering the models at the moment when timm is imported, for an environment where somebody has switched that on.

`coatnet-zoo autoload on` writes a `.pth` file, whose one line imports this module whenever a Python of the environment
starts. So this module imports nothing but `sys`, and an error of the package must not stop Python or timm.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes longer to import than Python may take longer to start
    from typing import Any


class _TimmFinder:
    """A finder that leaves the finding of timm to the other finders, and adds a step to the loading of timm."""

    def find_spec(self, name: str, path: 'Any' = None, target: 'Any' = None) -> 'Any':
        """The specification of timm that another finder has; None for every other module."""
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
            'or switch the registration off by `coatnet-zoo autoload off`.',
            stacklevel=2,
        )


sys.meta_path.insert(0, _TimmFinder())
