"""How a model classifies an image, and where in the image the evidence is; and a picture of both.

Names are imported when they are first used, because exported models classify images without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for readers of the types and of the API's page
    from .explain import explain_image as explain_image
    from .picture import draw_explanation as draw_explanation

_NAMES = {
    'explain': ('BiasTable', 'Explanation', 'explain_image'),
    'picture': ('NO_TABLES', 'draw_explanation', 'require_matplotlib'),
    'predict': ('Guess', 'Prediction', 'classify'),
    'reading': ('classifier_problem', 'data_config', 'known_labels', 'logits_of'),
    'sources': ('files_in', 'find_images'),
    'writing': ('csv_text', 'json_text', 'readable'),
}
__all__ = [name for names in _NAMES.values() for name in names]


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(importlib.import_module(f'.{module}', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
