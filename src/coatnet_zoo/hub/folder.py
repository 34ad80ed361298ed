"""Making a folder of named weights that timm loads on any machine."""

import filecmp
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import timm

from .._timm import save_config_for_hf
from ..errors import HubError
from ..files import CONFIG, SAFETENSORS, write_file
from ..registry import short
from .messages import sentence


def make_folder(name: str, file: Path, folder: Path) -> None:
    """Make a folder that `timm.create_model('local-dir:FOLDER', pretrained=True)` loads, on any machine.

    The folder gets an exact copy of the weights, and the configuration in timm's form. If the folder already has the
    weights, only the missing files are added. The configuration is written last, because timm loads no folder without
    a configuration.

    Args:
        name: Name of the weights, with tag.
        file: The file of the weights.
        folder: The destination.

    Raises:
        HubError: If the folder has other weights or another configuration, or cannot be written.
    """
    weights, config = folder / SAFETENSORS, folder / CONFIG
    model = timm.create_model(name, device='meta')
    try:
        with tempfile.TemporaryDirectory() as temporary:
            new_config = Path(temporary) / CONFIG
            save_config_for_hf(model, new_config)
            for old, new in ((weights, file), (config, new_config)):
                if os.path.lexists(old) and not filecmp.cmp(old, new, shallow=False):
                    raise HubError(f'{old} exists already and is not that of {name}; choose another folder.')
            folder.mkdir(parents=True, exist_ok=True)
            for new, source in ((weights, file), (config, new_config)):
                if not new.exists():
                    write_file(new, partial(shutil.copyfile, source))
    except OSError as e:
        raise HubError(f'{short(str(folder))} cannot be written: {sentence(e)}') from e
