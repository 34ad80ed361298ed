"""Publishing a folder, converted or fine-tuned, as a repository on the Hugging Face Hub."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import CheckpointError, HubError
from ..files import CARD, CONFIG, SAFETENSORS
from ..registry import SIZES, short
from ..slow import say_if_slow
from .messages import endpoint, sentence, without_secrets
from .model_card import Facts, is_folder_card, make_card
from .waiting import answer_within

_PICKLES = ('.bin', '.pth', '.pt', '.ckpt', '.pkl', '.pickle', '.h5', '.npz', '.tar')
_NEEDED = {'input_size', 'mean', 'std', 'interpolation', 'crop_pct'}
# The largest text in bytes that the Hub accepts in a commit.
_LONGEST_TEXT = 10_000_000
# The seconds that the Hub may take for an answer, and the lowest speed of an upload in bytes per second.
_TALK, _SLOWEST = 60.0, 10_240


@dataclass(frozen=True)
class Publication:
    """The content of a repository to publish on the Hub.

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


@say_if_slow('Checking the folder')
def prepare(
    folder: Path,
    repo_id: str,
    license: str | None = None,
    data: str | None = None,
    accuracy: float | None = None,
    source: str | None = None,
) -> Publication:
    """Check a folder, and write the text of a card if the folder has no card. Uses no network and changes no file.

    Args:
        folder: A folder from `convert_checkpoint` or `timm.models.save_for_hf`: model.safetensors and config.json.
        repo_id: The repository on the Hub, `org/name`.
        license: Identifier of the licence, as on the Hub. Default: the licence in the configuration.
        data: What the weights were trained on.
        accuracy: Top-1 in percent.
        source: The origin of the weights.

    Raises:
        CheckpointError: If the folder lacks a file, has a file that must not be published, or has no valid CoAtNet; if
            the licence is unknown or an argument is invalid.
    """
    if repo_id.count('/') != 1:
        raise CheckpointError(f'{short(repo_id)} does not name a repository; write ORG/NAME.')
    try:
        validate_repo_id(repo_id)
    except HFValidationError as e:
        raise CheckpointError(
            f'{short(repo_id)} cannot be the name of a repository: the Hub takes up to 96 letters, digits, "-", "_" '
            'and ".", without "--", ".." or ".git", and with a letter, digit or "_" at each end.'
        ) from e
    if accuracy is not None and not 0 <= accuracy <= 100:
        raise CheckpointError(f'The accuracy must be in percent, between 0 and 100, got {accuracy:g}.')
    files = {name: _own_file(folder, name) for name in (SAFETENSORS, CONFIG)}
    pickles = sorted(p.name for p in folder.iterdir() if p.name.lower().endswith(_PICKLES))
    if pickles:
        raise CheckpointError(
            f'{folder} has {", ".join(map(short, pickles[:5]))}, which others would have to trust; only {SAFETENSORS} '
            'is published, so move them away.'
        )
    config = _read_config(files[CONFIG])
    model = _load(folder)
    _check_labels(files[CONFIG], config, model.num_classes)
    card = _read_text(_own_file(folder, CARD)) if os.path.lexists(folder / CARD) else None
    if card is None or is_folder_card(card):
        license = config['pretrained_cfg'].get('license') if license is None else license
        if not isinstance(license, str) or not license.strip():
            raise CheckpointError(f'{folder} has no licence; give one by --license, e.g. --license apache-2.0.')
        card = make_card(repo_id, model, Facts(license, data, accuracy, source))
    _check_card(folder, card)
    return Publication(repo_id, files, card)


@say_if_slow('Publishing the folder')
def publish(publication: Publication, private: bool = False) -> str:
    """Create the repository if necessary, and upload the files in one commit.

    Args:
        publication: The content, from `prepare`.
        private: Make the repository private.

    Returns:
        The address of the repository.

    Raises:
        HubError: If the Hub refuses or cannot be reached, or if the repository exists and is public instead of private.
    """
    api = HfApi(library_name='coatnet-zoo')
    repo_id = publication.repo_id
    limit = _TALK + sum(publication.sizes.values()) / _SLOWEST
    try:
        url = answer_within(_TALK, lambda: api.create_repo(repo_id, private=private, exist_ok=True))
        if private and not answer_within(_TALK, lambda: api.repo_info(repo_id)).private:
            raise HubError(f'{repo_id} exists already and is public; choose another name or leave out --private.')
        content = {**publication.files, CARD: publication.card.encode()}
        operations = [CommitOperationAdd(name, file) for name, file in content.items()]
        answer_within(limit, lambda: api.create_commit(repo_id, operations, commit_message='Upload by coatnet-zoo'))
    except HubError:
        raise
    except Exception as e:  # exceptions of huggingface_hub and of its HTTP client
        raise HubError(f'{repo_id} cannot be published on the Hub at {endpoint()}: {sentence(e)}') from e
    return without_secrets(str(url))


def _own_file(folder: Path, name: str) -> Path:
    file = folder / name
    if file.is_symlink():
        raise CheckpointError(f'{file} is a link to {os.readlink(file)}; copy that file here if it is to be published.')
    if not os.path.lexists(file):
        raise CheckpointError(
            f'{folder} has no {name}; `coatnet-zoo convert` and timm.models.save_for_hf(..., safe_serialization=True) '
            'make such folders.'
        )
    if not os.path.isfile(file):
        raise CheckpointError(f'{file} is not a regular file.')
    return file


def _read_text(file: Path) -> str:
    if (size := file.stat().st_size) > _LONGEST_TEXT:
        raise CheckpointError(f'{file} has {size:,} bytes; only {_LONGEST_TEXT:,} can be published.')
    try:
        return file.read_text(encoding='utf-8')
    except UnicodeDecodeError as e:
        raise CheckpointError(f'{file} is not a text in UTF-8 ({e}); save it as one.') from e


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(_read_text(file))
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f'{file} is not JSON ({e}).') from e
    config = config if isinstance(config, dict) else {}
    cfg, args, size = config.get('pretrained_cfg'), config.get('model_args'), config.get('architecture')
    if not isinstance(cfg, dict) or _NEEDED - cfg.keys() or not isinstance(args, dict) or 'impl' not in args:
        raise CheckpointError(f'{file} does not have what timm.models.save_for_hf writes for a model of coatnet-zoo.')
    if not isinstance(size, str) or size not in SIZES:
        raise CheckpointError(f'{file} is of {short(size)}, not one of {", ".join(SIZES)}.')
    return config


def _check_labels(file: Path, config: dict[str, Any], classes: int) -> None:
    """Check the labels for readers of predictions. Loading does not check labels."""
    for place in (config, config['pretrained_cfg']):
        labels, texts = place.get('label_names'), place.get('label_descriptions')
        if labels is not None and not _are_texts(labels):
            raise CheckpointError(f'{file} has label_names that are not a list of texts.')
        if labels is not None and len(labels) != classes:
            raise CheckpointError(f'{file} has {len(labels)} labels, but the network has {classes} classes.')
        if texts is not None and not _are_texts(list(texts.values()) if isinstance(texts, dict) else texts):
            raise CheckpointError(f'{file} has label_descriptions that are not texts.')


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _check_card(folder: Path, card: str) -> None:
    """Check the card early. The Hub would refuse a bad card only after the repository was created."""
    try:
        ModelCard(card)
        card.encode()
    except Exception as e:  # exceptions of huggingface_hub and of its YAML reader
        raise CheckpointError(f'The model card of {folder} is not one that the Hub takes ({sentence(e)}).') from e


def _load(folder: Path) -> torch.nn.Module:
    """The model, loaded in the same way as after a download of the folder."""
    try:
        return timm.create_model(f'local-dir:{folder}', pretrained=True)
    except CheckpointError:
        raise
    except Exception as e:  # timm and torch raise many kinds of exceptions for a bad configuration
        raise CheckpointError(f'{folder} does not load, so it is not published: {sentence(e)}') from e
