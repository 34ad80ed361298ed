"""Publishing a folder, converted or fine-tuned, as a repository on the Hugging Face Hub."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import CommitOperationAdd, HfApi, constants

from ..errors import CheckpointError, HubError
from ..files import CARD, CONFIG, SAFETENSORS
from ..tables import SIZES
from .fetch import sentence
from .model_card import Facts, is_folder_card, make_card

_PICKLES = ('.bin', '.pth', '.pt', '.ckpt', '.pkl', '.pickle', '.h5', '.npz', '.tar')
_NEEDED = {'input_size', 'mean', 'std', 'interpolation', 'crop_pct'}


@dataclass(frozen=True)
class Publication:
    """What goes to the Hub.

    Attributes:
        repo_id: The repository, `org/name`.
        files: Files by their names in the repository.
        card: Text of the model card.
    """

    repo_id: str
    files: dict[str, Path]
    card: str

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of every file, the card included."""
        sizes = {name: file.stat().st_size for name, file in self.files.items()}
        return sizes | {CARD: len(self.card.encode())}


def prepare(
    folder: Path,
    repo_id: str,
    license: str | None = None,
    data: str | None = None,
    accuracy: float | None = None,
    source: str | None = None,
) -> Publication:
    """Check a folder, and compose a card unless the folder has one of its own. Asks nobody and changes nothing.

    Args:
        folder: With model.safetensors and config.json, as `convert_checkpoint` and `timm.models.save_for_hf` make it.
        repo_id: The repository that is to get the folder, `org/name`.
        license: Identifier of the licence, as on the Hub; that of the configuration unless given.
        data: What the weights were trained on.
        accuracy: Top-1 in percent.
        source: Where the weights come from.

    Raises:
        CheckpointError: If the folder lacks a file, has a file that must not be published, or is no sound CoAtNet; if
            the licence is unknown or an argument is bad.
    """
    if repo_id.count('/') != 1 or not all(repo_id.split('/')):
        raise CheckpointError(f'{repo_id!r} does not name a repository; write ORG/NAME.')
    if accuracy is not None and not 0 <= accuracy <= 100:
        raise CheckpointError(f'The accuracy must be in percent, between 0 and 100, got {accuracy:g}.')
    files = {name: _own_file(folder, name) for name in (SAFETENSORS, CONFIG)}
    pickles = sorted(p.name for p in folder.iterdir() if p.name.lower().endswith(_PICKLES))
    if pickles:
        raise CheckpointError(
            f'{folder} has {", ".join(pickles)}, which others would have to trust; only {SAFETENSORS} is published, so '
            'move them away.'
        )
    config = _read_config(files[CONFIG])
    params = _count(folder)
    card = _own_file(folder, CARD).read_text(encoding='utf-8') if (folder / CARD).exists() else None
    if card is None or is_folder_card(card):
        license = license or config['pretrained_cfg'].get('license')
        if not license:
            raise CheckpointError(f'{folder} does not say its licence; say it by --license, e.g. --license apache-2.0.')
        card = make_card(repo_id, config, params, Facts(license, data, accuracy, source))
    return Publication(repo_id, files, card)


def publish(publication: Publication, private: bool = False) -> str:
    """Create the repository if need be, and upload the files in one commit.

    Args:
        publication: From `prepare`.
        private: Make it a private repository.

    Returns:
        The address of the repository.

    Raises:
        HubError: If the Hub refuses or cannot be reached, or if the repository exists and is public instead of private.
    """
    api = HfApi(library_name='coatnet-zoo')
    repo_id = publication.repo_id
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.repo_info(repo_id).private:
            raise HubError(f'{repo_id} exists already and is public; choose another name or leave out --private.')
        content = {**publication.files, CARD: publication.card.encode()}
        operations = [CommitOperationAdd(name, file) for name, file in content.items()]
        api.create_commit(repo_id, operations, commit_message='Upload by coatnet-zoo')
    except HubError:
        raise
    except Exception as e:  # of huggingface_hub, of the HTTP client below it
        raise HubError(f'{repo_id} cannot be published on the Hub at {constants.ENDPOINT}: {sentence(e)}') from e
    return str(url)


def _own_file(folder: Path, name: str) -> Path:
    file = folder / name
    if not file.is_file():
        raise CheckpointError(
            f'{folder} has no {name}; `coatnet-zoo convert` and timm.models.save_for_hf(..., safe_serialization=True) '
            'make such folders.'
        )
    if file.is_symlink():
        raise CheckpointError(f'{file} is a link to {file.resolve()}; copy that file here if it is to be published.')
    return file


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding='utf-8'))
    except ValueError as e:
        raise CheckpointError(f'{file} is not JSON ({e}).') from e
    cfg = config.get('pretrained_cfg') if isinstance(config, dict) else None
    if not isinstance(cfg, dict) or _NEEDED - cfg.keys() or 'impl' not in (config.get('model_args') or {}):
        raise CheckpointError(f'{file} does not have what timm.models.save_for_hf writes for a model of coatnet-zoo.')
    if config.get('architecture') not in SIZES:
        raise CheckpointError(f'{file} is of {config.get("architecture")!r}, not one of {", ".join(SIZES)}.')
    labels, classes = cfg.get('label_names') or config.get('label_names'), config.get('num_classes')
    if isinstance(labels, list) and len(labels) != classes:
        raise CheckpointError(f'{file} has {len(labels)} labels, but the network has {classes} classes.')
    return config


def _count(folder: Path) -> int:
    """The parameters of the model, loaded as those who download the folder will load it."""
    try:
        model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    except CheckpointError:
        raise
    except Exception as e:  # whatever timm and torch make of a bad configuration
        raise CheckpointError(f'{folder} does not load, so it is not published: {sentence(e)}') from e
    return sum(p.numel() for p in model.parameters())
