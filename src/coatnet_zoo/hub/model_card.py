"""The model card of a folder that is published: metadata for the Hub, and what a reader has to know."""

from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

_PAPER = 'https://arxiv.org/abs/2106.04803'
# Whose code an implementation comes from, by the first part of its name.
_CODE = {
    'timm': 'https://github.com/huggingface/pytorch-image-models',
    'chinhsuanwu': 'https://github.com/chinhsuanwu/coatnet-pytorch',
    'keras': 'https://github.com/leondgarse/keras_cv_attention_models',
    'paper': _PAPER,
}


@dataclass(frozen=True)
class Facts:
    """What the files cannot say. None is said to be unknown on the card.

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


def make_card(repo_id: str, config: dict[str, Any], params: int, facts: Facts) -> str:
    """The text of README.md.

    Args:
        repo_id: Where it will be, `org/name`.
        config: Content of config.json.
        params: Parameters of the model.
        facts: What the files cannot say.
    """
    size, cfg = config['architecture'], config['pretrained_cfg']
    impl = config['model_args']['impl']
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

A {size} of {params / 1e6:.2f} M parameters in the implementation `{impl}` ([its code or paper]({_CODE[impl.partition('_')[0]]})),
for images of {height}x{width} pixels with {chans} channels and {config['num_classes']} classes.

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

CoAtNet is by Zihang Dai, Hanxiao Liu, Quoc V. Le and Mingxing Tan ([arXiv:2106.04803]({_PAPER})).
"""  # noqa: E501
    return ModelCard(text).content
