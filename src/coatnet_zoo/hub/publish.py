"""Folders of a model: publishing one as a repository on the Hugging Face Hub, and making one from published weights."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.utils import validate_repo_id

from ..errors import CheckpointError, HubError
from ..files import CARD, CONFIG, SAFETENSORS, write_folder
from ..registry import SIZES, short
from .messages import one_line_error, without_secrets
from .model_card import CARD_FACTS, FOLDER_CARD, Facts, make_card

# timm would put values of its own in the place of missing ones.
_NEEDED = {'input_size', 'mean', 'std', 'interpolation', 'crop_pct'}


def prepare(folder: Path, repo_id: str, **facts: Any) -> dict[str, Path | bytes]:
    """Check a folder, and write the text of a card if the folder has no card. Uses no network and changes no file.

    Args:
        folder: A folder from `convert_checkpoint` or `timm.models.save_for_hf`: model.safetensors and config.json.
        repo_id: The repository on the Hub, `org/name`.
        **facts: The fields of `Facts`, for the card. Default: those in the configuration.

    Raises:
        CheckpointError: If the folder lacks a file, has a file that must not be published, or has no valid CoAtNet; if
            the licence is unknown or the name is invalid.
    """
    if repo_id.count('/') != 1:
        raise CheckpointError(f'{short(repo_id)} does not name a repository; write ORG/NAME.')
    files = {name: folder / name for name in (SAFETENSORS, CONFIG)}
    with one_line_error(CheckpointError, f'{folder} cannot be published as {short(repo_id)}'):
        for file in (*files.values(), folder / CARD):
            if file.is_symlink():
                raise CheckpointError(f'{file} is a link, perhaps to a private file; put the file itself there.')
        validate_repo_id(repo_id)
        model = timm.create_model(f'local-dir:{folder}', pretrained=True)  # as it loads after a download
        config = json.loads(files[CONFIG].read_bytes())
    cfg, args = config.get('pretrained_cfg') or {}, config.get('model_args') or {}
    if config['architecture'] not in SIZES or _NEEDED - cfg.keys() or 'impl' not in args:
        raise CheckpointError(f'{files[CONFIG]} is not what timm.models.save_for_hf writes for a coatnet-zoo model.')
    labels = model.pretrained_cfg.get('label_names')
    if labels is not None and len(labels) != model.num_classes:
        raise CheckpointError(f'{folder} has {len(labels)} labels, but the network has {model.num_classes} classes.')
    # The Hub would refuse a bad card only after the repository was created.
    with one_line_error(CheckpointError, f'The Hub would refuse the model card of {folder}'):
        card = (folder / CARD).read_text(encoding='utf-8') if (folder / CARD).exists() else FOLDER_CARD
        if is_ours := card.rstrip().endswith(FOLDER_CARD.strip()):
            known = Facts(**config.get(CARD_FACTS, {}) | {k: v for k, v in facts.items() if v is not None})
            license = known.license or cfg.get('license') or ''
            if not license.strip():
                raise CheckpointError(f'{folder} has no licence; give one with --license, e.g. --license apache-2.0.')
            params = sum(p.numel() for p in model.parameters())
            card = make_card(repo_id, config, params, replace(known, license=license))
        ModelCard(card)
        if not is_ours and (given := [f'--{name}' for name, value in facts.items() if value is not None]):
            raise CheckpointError(
                f'{folder / CARD} is a card of your own, so {", ".join(given)} cannot change it; edit or remove it.'
            )
        return {**files, CARD: card.encode()}


def publish(repo_id: str, content: dict[str, Path | bytes], private: bool = False) -> str:
    """Create the repository if necessary, and upload the files in one commit. Returns the address of the repository.

    Args:
        repo_id: The repository on the Hub, `org/name`.
        content: What `prepare` returns.
        private: Make the repository private.

    Raises:
        HubError: If the Hub refuses or cannot be reached, or if the repository exists and is public instead of private.
    """
    api = HfApi(library_name='coatnet-zoo')
    with one_line_error(HubError, f'{repo_id} cannot be published on the Hub at {api.endpoint}'):
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.repo_info(repo_id).private:
            raise HubError(f'{repo_id} already exists and is public; choose another name or leave out --private.')
        operations = [CommitOperationAdd(name, file) for name, file in content.items()]
        api.create_commit(repo_id, operations, commit_message='Upload with coatnet-zoo')
    return without_secrets(str(url))


def make_folder(name: str, folder: Path) -> None:
    """Make a folder that `timm.create_model('local-dir:FOLDER', pretrained=True)` loads, on any machine.

    Raises:
        HubError: If the weights cannot be fetched, or if the folder is not empty or cannot be written.
    """

    def check_empty(old: Path) -> None:
        if not old.is_dir() or os.listdir(old):
            raise HubError(f'{old} already exists and is not an empty folder; choose another.')

    with one_line_error(HubError, f'{folder} cannot be written'):
        folder = folder.resolve()
        model = timm.create_model(name, pretrained=True)
        write_folder(folder, lambda new: timm.models.save_for_hf(model, new, safe_serialization=True), check_empty)
