"""Publishing a folder, converted or fine-tuned, as a repository on the Hugging Face Hub."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.utils import validate_repo_id
from torch import nn

from ..errors import CheckpointError, HubError
from ..files import CARD, CONFIG, SAFETENSORS
from ..registry import SIZES, short
from .messages import one_line_error, without_secrets
from .model_card import Facts, is_folder_card, make_card

_PICKLES = ('.bin', '.pth', '.pt', '.ckpt', '.pkl', '.pickle', '.h5', '.npz', '.tar')
_NEEDED = {'input_size', 'mean', 'std', 'interpolation', 'crop_pct'}
_LONGEST_CARD = 10_000_000  # bytes of a text in a commit that the Hub accepts


def prepare(folder: Path, repo_id: str, **facts: Any) -> dict[str, Path | bytes]:
    """Check a folder, and write the text of a card if the folder has no card. Uses no network and changes no file.

    Args:
        folder: A folder from `convert_checkpoint` or `timm.models.save_for_hf`: model.safetensors and config.json.
        repo_id: The repository on the Hub, `org/name`.
        **facts: The fields of `Facts`, for the card. Default licence: that in the configuration.

    Returns:
        The content of the repository: files, and the bytes of the card.

    Raises:
        CheckpointError: If the folder lacks a file, has a file that must not be published, or has no valid CoAtNet; if
            the licence is unknown or an argument is invalid.
    """
    known = Facts(**facts)
    if repo_id.count('/') != 1:
        raise CheckpointError(f'{short(repo_id)} does not name a repository; write ORG/NAME.')
    if known.accuracy is not None and not 0 <= known.accuracy <= 100:
        raise CheckpointError(f'The accuracy must be in percent, between 0 and 100, got {known.accuracy:g}.')
    files = {name: _regular_file(folder, name) for name in (SAFETENSORS, CONFIG)}
    if pickles := sorted(p.name for p in folder.iterdir() if p.name.lower().endswith(_PICKLES)):
        raise CheckpointError(
            f'{folder} has {", ".join(map(short, pickles[:5]))}, which others would have to trust; only {SAFETENSORS} '
            'is published, so move them away.'
        )
    with one_line_error(CheckpointError, f'{folder} cannot be published as {short(repo_id)}'):
        validate_repo_id(repo_id)
        model = timm.create_model(f'local-dir:{folder}', pretrained=True)  # as it loads after a download
        config = json.loads(files[CONFIG].read_bytes())
    cfg, args = config.get('pretrained_cfg') or {}, config.get('model_args') or {}
    if model.pretrained_cfg['architecture'] not in SIZES or _NEEDED - cfg.keys() or 'impl' not in args:
        raise CheckpointError(
            f'{files[CONFIG]} does not have what timm.models.save_for_hf writes for a model of coatnet-zoo.'
        )
    for labels in (config.get('label_names'), cfg.get('label_names')):
        if labels is not None and len(labels) != model.num_classes:
            raise CheckpointError(
                f'{files[CONFIG]} has {len(labels)} labels, but the network has {model.num_classes} classes.'
            )
    with one_line_error(CheckpointError, f'The model card of {folder} is not one that the Hub takes'):
        return {**files, CARD: _card(folder, repo_id, model, known)}


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
            raise HubError(f'{repo_id} exists already and is public; choose another name or leave out --private.')
        operations = [CommitOperationAdd(name, file) for name, file in content.items()]
        api.create_commit(repo_id, operations, commit_message='Upload by coatnet-zoo')
    return without_secrets(str(url))


def _regular_file(folder: Path, name: str) -> Path:
    file = folder / name
    if file.is_symlink() or not file.is_file():
        raise CheckpointError(
            f'{folder} has no {name} that is a file and no link; `coatnet-zoo convert` and '
            'timm.models.save_for_hf(..., safe_serialization=True) make such folders.'
        )
    return file


def _card(folder: Path, repo_id: str, model: nn.Module, facts: Facts) -> bytes:
    """The card of the folder, or a new card. The Hub would refuse a bad card only after the repository was created."""
    has_card = os.path.lexists(folder / CARD)
    card = _regular_file(folder, CARD).read_text(encoding='utf-8') if has_card else None
    if card is None or is_folder_card(card):
        cfg = model.pretrained_cfg
        license = cfg.get('license') if facts.license is None else facts.license
        if not isinstance(license, str) or not license.strip():
            raise CheckpointError(f'{folder} has no licence; give one by --license, e.g. --license apache-2.0.')
        config = dict(cfg, pretrained_cfg=cfg, model_args=dict(impl=model.cfg.impl), num_classes=model.num_classes)
        params = sum(p.numel() for p in model.parameters())
        card = make_card(repo_id, config, params, replace(facts, license=license))
    ModelCard(card)
    content = card.encode()
    if len(content) > _LONGEST_CARD:
        raise CheckpointError(f'The model card has {len(content):,} bytes; only {_LONGEST_CARD:,} can be published.')
    return content
