"""Fine-tuning on a folder of photos, with timm's parts."""

from .train import finetune as finetune
