"""What comes of a folder whose config.json was changed: equal logits, a one-line error, or an error of timm's reader."""

import traceback
from pathlib import Path

import timm
import torch

from coatnet_zoo import CheckpointError


def outcome(folder: Path, x: torch.Tensor, logits: torch.Tensor, pretrained: bool = True) -> str:
    """`equal`, `refused` or `timm`; raises whatever is none of them.

    Args:
        folder: For `local-dir:`.
        x: Images.
        logits: Of the model before its config.json was changed.
        pretrained: Load the weights. Without them no logits are compared.
    """
    try:
        model = timm.create_model(f'local-dir:{folder}', pretrained=pretrained)
    except CheckpointError as error:
        message = str(error)
        assert message.isprintable() and message.endswith('.') and len(message) < 1000, message
        return 'refused'
    except Exception as error:
        if any('/coatnet_zoo/' in frame.filename for frame in traceback.extract_tb(error.__traceback__)):
            raise
        return 'timm'  # before this package was asked for a model
    if pretrained and hasattr(model, 'num_classes'):
        with torch.inference_mode():
            torch.testing.assert_close(model.eval()(x), logits, rtol=0, atol=1e-4)
    return 'equal'
