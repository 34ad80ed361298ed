"""The model card of a folder that is published: metadata for the Hub, and the facts that a reader needs."""

from dataclasses import dataclass

from huggingface_hub import ModelCard, ModelCardData
from torch import nn

from ..tables import IMPLS, PAPER_URL


@dataclass(frozen=True)
class Facts:
    """The facts that the files do not hold. The card calls a fact that is None "not stated".

    Attributes:
        license: Identifier of the licence, as on the Hub.
        data: What the weights were trained on.
        accuracy: Top-1 in percent.
        source: Where the weights come from, e.g. the training run or the checkpoint they were converted from.
    """

    license: str
    data: str | None = None
    accuracy: float | None = None
    source: str | None = None


def make_card(repo_id: str, model: nn.Module, facts: Facts) -> str:
    """The text of README.md.

    Args:
        repo_id: The repository, `org/name`.
        model: The model that the folder was loaded into.
        facts: The facts that the files do not hold.
    """
    cfg, impl = model.pretrained_cfg, model.cfg.impl
    link = IMPLS[impl].url
    params = sum(p.numel() for p in model.parameters())
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
# {repo_id.partition('/')[2]}

A {cfg['architecture']} of {params / 1e6:.2f} M parameters in the implementation `{impl}` ([its code or paper]({link})),
for images of {height}x{width} pixels with {chans} channels and {model.num_classes} classes.

- **Licence**: {facts.license}
- **Source**: {facts.source or 'not stated'}
- **Data**: {facts.data or 'not stated'}
- **Accuracy**: {'not stated' if facts.accuracy is None else f'{facts.accuracy:g} % top-1'}
- **Preprocessing**: mean {cfg['mean']}, std {cfg['std']}, {cfg['interpolation']}, crop {cfg['crop_pct']}

```python
import coatnet_zoo
import timm

model = timm.create_model('hf-hub:{repo_id}', pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```

CoAtNet is by Zihang Dai, Hanxiao Liu, Quoc V. Le and Mingxing Tan ([arXiv:2106.04803]({PAPER_URL})).
"""
    return ModelCard(text).content
