"""The model card: how to load the network, what a reader needs to know, and metadata for the Hub.

The text is in `model_card.md`.
"""

from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from ..registry import IMPLS, PAPER_URL

_TEMPLATE = Path(__file__).with_suffix('.md')
_FOLDER_CARD = '\n<!-- `coatnet-zoo push` writes the card for the Hub instead of this card. -->\n'


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
    from huggingface_hub import ModelCard, ModelCardData  # a slow import, which the command `list` does not need

    metadata = ModelCardData(
        license=facts.license,
        library_name='timm',
        pipeline_tag='image-classification',
        tags=['image-classification', 'timm', 'coatnet', 'coatnet-zoo'],
    )
    cfg, impl = config['pretrained_cfg'], config['model_args']['impl']
    chans, height, width = cfg['input_size']
    text = Template(_TEMPLATE.read_text(encoding='utf-8')).substitute(
        config | cfg,
        metadata=metadata.to_yaml(),
        title=name.rpartition('/')[2],
        path=repr(name),
        timm_name=repr(f'{scheme}:{name}'),
        params=f'{params / 1e6:.2f}',
        impl=impl,
        impl_url=IMPLS[impl].url,
        size=f'{height}x{width}',
        channels='1 channel' if chans == 1 else f'{chans} channels',
        license=facts.license or 'not stated',
        source=facts.source or 'not stated',
        data=facts.data or 'not stated',
        accuracy='not stated' if facts.accuracy is None else f'{facts.accuracy:g} % top-1',
        paper_url=PAPER_URL,
    )
    return ModelCard(text).content


def make_folder_card(name: str, config: dict[str, Any], params: int) -> str:
    """The text of README.md for a folder that is not published yet; see `make_card`."""
    facts = Facts(license=config['pretrained_cfg'].get('license'))
    return make_card(name, config, params, facts, 'local-dir') + _FOLDER_CARD


def is_folder_card(text: str) -> bool:
    """Whether a card is from `make_folder_card`, so that the card for the Hub may replace the card."""
    return text.endswith(_FOLDER_CARD)
