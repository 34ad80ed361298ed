"""Loading a model from any source: a name, a tag, a folder, a repository on the Hub, or a checkpoint file."""

import tempfile
from pathlib import Path

import timm
from timm.models import is_model, is_model_in_modules, resolve_model_input_args

from ..convert import convert_checkpoint, is_folder
from ..errors import CheckpointError, HubError, shown
from ..hub import fetch_weights, sentence
from ..network import CoAtNet
from ..registry import TIMM_NAMES, did_you_mean, our_name


def load_model(source: str) -> CoAtNet:
    """Load a model with weights, in evaluation mode.

    Args:
        source: A registered name, with a tag or without, or timm's name of the same weights; a folder, with
            `local-dir:` before it or without; `hf-hub:ORG/NAME`; or a checkpoint file that `convert_checkpoint` takes.

    Raises:
        CheckpointError: If there is no such model, if the model is not one of this package, or if the weights cannot be
            read or do not fit.
        HubError: If the weights cannot be fetched from the Hub or a release page.
    """
    path = Path(source)
    try:
        if not is_model(source) and path.is_file():
            return _converted(path)
        name = f'local-dir:{source}' if not is_model(source) and path.is_dir() else our_name(source)
        if name.startswith(('hf-hub:', 'hf_hub:')):
            # Once this is in the cache, timm asks once. Without a network timm would ask for 23 seconds.
            fetch_weights(name.partition(':')[2], 'config.json')
        architecture = resolve_model_input_args(name)['model_name']
        if is_folder(name) and TIMM_NAMES.get(architecture):
            return _converted(name)
        if not is_model_in_modules(architecture, 'coatnet'):
            raise CheckpointError(
                f'{shown(source)} is not one of this package, but of the architecture {architecture}; see '
                '`coatnet-zoo list`.'
            )
        return timm.create_model(name, pretrained=True).eval()
    except (HubError, CheckpointError):
        raise
    except Exception as e:  # timm raises many kinds for a bad name or configuration
        raise CheckpointError(
            f"The model '{shown(source)}' cannot be loaded ({shown(sentence(e))}); give a name of `coatnet-zoo list`, "
            f'a folder, a checkpoint file or hf-hub:ORG/NAME. {did_you_mean(source)}'.rstrip()
        ) from e


def _converted(source: str | Path) -> CoAtNet:
    """The model of a checkpoint file, or of a folder with one of timm's CoAtNets."""
    with tempfile.TemporaryDirectory(prefix='coatnet-zoo-') as parent:
        folder = Path(parent) / 'converted'
        convert_checkpoint(source, folder)
        return timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
