"""Loading a model from any source: a name, a tag, a folder, a repository on the Hub, or a checkpoint file."""

import logging
import tempfile
from pathlib import Path
from typing import Any

import timm
from timm.models import is_model

from ..convert import Checkpoint, convert_checkpoint, is_folder, read_folder
from ..errors import CheckpointError, HubError, shown
from ..hub import one_line
from ..network import CoAtNet
from ..registry import WEIGHTS, did_you_mean, our_name

_log = logging.getLogger(__name__)


def load_model(source: str, img_size: tuple[int, int] | None = None, **arguments: Any) -> CoAtNet:
    """Load a model with weights, in evaluation mode.

    Args:
        source: A registered name, with a tag or without, or timm's name of the same weights; a folder, with
            `local-dir:` before it or without; `hf-hub:ORG/NAME`; or a checkpoint file that `convert_checkpoint` takes.
        img_size: Height and width of images in pixels. Default: those of the model; of a checkpoint, those of its
            training.
        **arguments: Arguments of `timm.create_model`, such as `num_classes`, or `pretrained=False`.

    Raises:
        CheckpointError: If there is no such model, if the model is not one of this package, or if the weights cannot be
            read or do not fit.
        HubError: If the weights cannot be fetched from the Hub or a release page.
    """
    path, arguments = Path(source), {'pretrained': True, **arguments}
    try:
        # timm takes `coatnet_1.pth` for a name with a tag.
        is_path = not is_model(source) or ('.' in source and source not in WEIGHTS)
        if is_path and path.is_file():
            return _converted(path, img_size, arguments)
        name = f'local-dir:{source}' if is_path and path.is_dir() else our_name(source)
        # This also puts config.json into the cache. Without a network, timm would try to fetch it for 23 seconds.
        if (is_folder(name) or is_model(name)) and (found := read_folder(name)):
            return _converted(found, img_size, arguments)
        return timm.create_model(name, img_size=img_size, **arguments).eval()
    except (HubError, CheckpointError):
        raise
    except Exception as e:  # timm raises many kinds for a bad name or configuration
        problem = f"The model '{shown(source)}' cannot be loaded ({shown(one_line(e)).rstrip('.')})"
        if type(e) is ValueError:  # of an argument, not of the name
            raise CheckpointError(f'{problem}.') from e
        names = '`coatnet-zoo list`, a folder, a checkpoint file or hf-hub:ORG/NAME'
        raise CheckpointError(f'{problem}; give a name from {names}. {did_you_mean(source)}'.rstrip()) from e


def _converted(source: Path | Checkpoint, img_size: tuple[int, int] | None, arguments: dict[str, Any]) -> CoAtNet:
    """The model of a checkpoint file, or of one that was read already."""
    with tempfile.TemporaryDirectory(prefix='coatnet-zoo-') as parent:
        folder = Path(parent) / 'converted'
        try:
            done = convert_checkpoint(source, folder)
        except CheckpointError:
            if img_size is None:
                raise
            done = convert_checkpoint(source, folder, img_size=img_size)  # tables of images that are not square
        if img_size is None and (size := done.assumed.get('img_size')):
            _log.warning('No table shows the image size: assuming %dx%d; see `convert --img-size`.', *size)
        if values := ' and '.join(f'{key} {done.assumed[key]}' for key in ('mean', 'std') if key in done.assumed):
            _log.warning('The checkpoint has no mean and std of images: assuming %s; see `convert --mean`.', values)
        return timm.create_model(f'local-dir:{folder}', img_size=img_size, **arguments).eval()
