"""The model card: the text in `model_card.md`, with the facts of a model and metadata for the Hub filled in."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any

from ..files import CARD, CONFIG
from ..registry import IMPLS, PAPER_URL

CARD_FACTS = 'model_card'  # in config.json, the fields of `Facts` that are known when the folder is written
# The end of a card that `push` replaces.
FOLDER_CARD = '\n<!-- `coatnet-zoo push` writes the card for the Hub instead of this card. -->\n'


@dataclass(frozen=True)
class Facts:
    """What the files of a model do not hold. The card calls a fact that is None "not stated"."""

    license: str | None = None  # identifier on the Hub
    data: str | None = None  # what the weights were trained on
    accuracy: float | None = None  # top-1 in percent
    source: str | None = None  # the origin of the weights, e.g. the training run or the original checkpoint


def make_card(name: str, config: dict[str, Any], params: int, facts: Facts, scheme: str = 'hf-hub') -> str:
    """The text of README.md.

    Args:
        name: The repository on the Hub, `org/name`, or the name of a folder.
        config: Content of config.json.
        params: Number of parameters of the model.
        facts: What the files do not hold.
        scheme: What timm's name of the model begins with, `hf-hub` or `local-dir`.
    """
    from huggingface_hub import ModelCardData  # a slow import, which the command `list` does not need

    stated = {name: value or 'not stated' for name, value in asdict(facts).items()}
    cfg, impl = config['pretrained_cfg'], config['model_args']['impl']
    chans, height, width = cfg['input_size']
    return Template(Path(__file__).with_suffix('.md').read_text(encoding='utf-8')).substitute(
        config | cfg | stated,
        license_metadata=ModelCardData(license=facts.license).to_yaml() if facts.license else '',
        title=name.rpartition('/')[2],
        path=repr(name),
        timm_name=repr(f'{scheme}:{name}'),
        params=f'{params / 1e6:.2f}',
        impl=impl,
        impl_url=IMPLS[impl].url,
        size=f'{height}x{width}',
        channels='1 channel' if chans == 1 else f'{chans} channels',
        accuracy='not stated' if facts.accuracy is None else f'{facts.accuracy:g} % top-1',
        paper_url=PAPER_URL,
    )


def make_folder_card(name: str, config: dict[str, Any], params: int) -> str:
    """The text of README.md for a folder that is not published yet; see `make_card`."""
    facts = Facts(**{'license': config['pretrained_cfg'].get('license'), **config.get(CARD_FACTS, {})})
    return make_card(name, config, params, facts, 'local-dir') + FOLDER_CARD


def save_folder(model: Any, folder: Path, name: str, model_config: dict[str, Any], data_config: dict[str, Any]) -> None:
    """Write weights, config.json and the card of the folder `name`; see `timm.models.save_for_hf`."""
    from timm.models import save_for_hf  # a slow import, as above

    save_for_hf(model, folder, model_config=model_config, data_config=data_config, safe_serialization=True)
    config = json.loads((folder / CONFIG).read_text(encoding='utf-8'))
    card = make_folder_card(name, config, sum(p.numel() for p in model.parameters()))
    (folder / CARD).write_text(card, encoding='utf-8')
