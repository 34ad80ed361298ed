"""The model card of a folder: how to load the network, the facts that a reader needs, and metadata for the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..registry import IMPLS, PAPER_URL

if TYPE_CHECKING:  # the command `list` imports this module without torch
    from torch import nn

_FOLDER_CARD = '\n<!-- `coatnet-zoo push` writes the card for the Hub instead of this card. -->\n'


@dataclass(frozen=True)
class Facts:
    """The facts that the files do not hold. The card calls a fact that is None "not stated".

    Attributes:
        license: Identifier of the licence, as on the Hub.
        data: What the weights were trained on.
        accuracy: Top-1 in percent.
        source: The origin of the weights, e.g. the training run or the original checkpoint.
    """

    license: str | None = None
    data: str | None = None
    accuracy: float | None = None
    source: str | None = None


def make_card(repo_id: str, model: nn.Module, facts: Facts) -> str:
    """The text of README.md for a repository on the Hub.

    Args:
        repo_id: The repository, `org/name`.
        model: The model that the folder was loaded into.
        facts: The facts that the files do not hold.
    """
    params = sum(p.numel() for p in model.parameters())
    title, name = repo_id.partition('/')[2], f'hf-hub:{repo_id}'
    return _card(title, repo_id, name, model.pretrained_cfg, model.cfg.impl, model.num_classes, params, facts)


def make_folder_card(name: str, config: dict[str, Any], params: int) -> str:
    """The text of README.md for a folder that is not published yet; `is_folder_card` recognises the text.

    Args:
        name: Name of the folder.
        config: Content of config.json.
        params: Number of parameters of the model.
    """
    cfg = dict(config['pretrained_cfg'], architecture=config['architecture'])
    facts = Facts(license=cfg.get('license'))
    impl, classes = config['model_args']['impl'], config['num_classes']
    return _card(name, name, f'local-dir:{name}', cfg, impl, classes, params, facts) + _FOLDER_CARD


def is_folder_card(text: str) -> bool:
    """Whether a card is from `make_folder_card`, so that the card for the Hub may replace the card."""
    return text.endswith(_FOLDER_CARD)


def _card(
    title: str, path: str, timm_name: str, cfg: dict[str, Any], impl: str, classes: int, params: int, facts: Facts
) -> str:
    from huggingface_hub import ModelCard, ModelCardData  # a slow import, which the command `list` does not need

    metadata = ModelCardData(
        license=facts.license,
        library_name='timm',
        pipeline_tag='image-classification',
        tags=['image-classification', 'timm', 'coatnet', 'coatnet-zoo'],
    )
    chans, height, width = cfg['input_size']
    text = f"""---
{metadata.to_yaml()}
---
# {title}

The package coatnet-zoo registers this network with timm. Without `import coatnet_zoo`, timm does not know the model,
and other programs ask for a newer timm. For programs that have no place for the import, the command
`coatnet-zoo autoload on` registers the network whenever timm is imported.

```python
import coatnet_zoo
import timm

model = timm.create_model({timm_name!r}, pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```

In transformers:

```python
import coatnet_zoo
from transformers import AutoImageProcessor, AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained({path!r})
processor = AutoImageProcessor.from_pretrained({path!r})
```

In fastai, with `dls` from your images:

```python
import coatnet_zoo
from fastai.vision.all import vision_learner

learner = vision_learner(dls, {timm_name!r})
```

The network is a {cfg['architecture']} of {params / 1e6:.2f} M parameters in the implementation `{impl}`
([its code or paper]({IMPLS[impl].url})), for images of {height}x{width} pixels with {chans} channels and
{classes} classes.

- **Licence**: {facts.license or 'not stated'}
- **Source**: {facts.source or 'not stated'}
- **Data**: {facts.data or 'not stated'}
- **Accuracy**: {'not stated' if facts.accuracy is None else f'{facts.accuracy:g} % top-1'}
- **Preprocessing**: mean {cfg['mean']}, std {cfg['std']}, {cfg['interpolation']}, crop {cfg['crop_pct']}

CoAtNet is by Zihang Dai, Hanxiao Liu, Quoc V. Le and Mingxing Tan ([arXiv:2106.04803]({PAPER_URL})).
"""
    return ModelCard(text).content
