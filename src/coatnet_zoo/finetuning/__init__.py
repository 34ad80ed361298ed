"""Fine-tuning on a folder of photos, of timm's parts."""

from .train import finetune as finetune
