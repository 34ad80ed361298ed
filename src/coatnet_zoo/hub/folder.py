"""Making a folder of named weights that timm loads on any machine."""

import filecmp
import shutil
from pathlib import Path

import timm

from .._timm import save_config_for_hf
from ..errors import HubError
from ..files import CONFIG, SAFETENSORS, write_file


def make_folder(name: str, file: Path, folder: Path) -> None:
    """Make a folder that `timm.create_model('local-dir:FOLDER', pretrained=True)` loads, on any machine.

    The folder gets the file of the weights as it is, and the configuration as timm saves it. A folder that has the
    weights already is completed. The configuration comes last, because timm loads nothing without it.

    Args:
        name: Of the weights, with tag.
        file: The file of the weights.
        folder: The destination.

    Raises:
        HubError: If the folder has other weights, or cannot be written.
    """
    weights = folder / SAFETENSORS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not weights.exists():
            write_file(weights, lambda partial: shutil.copyfile(file, partial))
        if not filecmp.cmp(weights, file, shallow=False):
            raise HubError(f'{weights} exists already and is not that of {name}; choose another folder.')
        model = timm.create_model(name, device='meta')
        write_file(folder / CONFIG, lambda partial: save_config_for_hf(model, partial))
    except OSError as e:
        raise HubError(f'{folder} cannot be written: {e}') from e
