"""Making a folder of named weights that timm loads on any machine."""

import os
from pathlib import Path

import timm

from ..errors import HubError
from ..files import write_folder
from .messages import one_line_error


def make_folder(name: str, folder: Path) -> None:
    """Make a folder that `timm.create_model('local-dir:FOLDER', pretrained=True)` loads, on any machine.

    Args:
        name: Name of the weights, with tag.
        folder: The destination: a new folder, or an empty one.

    Raises:
        HubError: If the weights cannot be fetched, or if the folder is not empty or cannot be written.
    """

    def check_empty(old: Path) -> None:
        if os.path.lexists(old) and not (old.is_dir() and not os.listdir(old)):
            raise HubError(f'{old} exists already and is not an empty folder; choose another.')

    with one_line_error(HubError, f'{folder} cannot be written'):
        folder = folder.resolve()
        check_empty(folder)
        model = timm.create_model(name, pretrained=True)
        write_folder(folder, lambda new: timm.models.save_for_hf(model, new, safe_serialization=True), check_empty)
