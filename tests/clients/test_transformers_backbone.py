"""transformers: the network as a backbone, alone and in DETR."""

from pathlib import Path

import pytest
import torch
from clients import MADE_FOR_IT, NAMES, ONE_SIZE, arguments, assert_same, client, images, whose

transformers = client('transformers')
# from_pretrained leaves the index of timm's position tables as the memory was.
LOST = pytest.RaisesExc((IndexError, AssertionError))


@whose(ONE_SIZE)
def test_backbone_at_another_size(whose: str) -> None:
    config = transformers.TimmBackboneConfig(backbone=NAMES[whose], out_indices=(1, 2, 3, 4))
    backbone = transformers.TimmBackbone(config, **arguments(whose, size=(64, 96)))
    maps = backbone(images(1, 64, 96)).feature_maps
    assert [tuple(m.shape[1:]) for m in maps] == [(32, 16, 24), (32, 8, 12), (64, 4, 6), (64, 2, 3)]
    assert backbone.channels == [32, 32, 64, 64]


def detr(whose: str) -> torch.nn.Module:
    backbone = 'coatnet_atto' if whose == 'ours' else 'coatnet_nano_rw_224'  # no place for other arguments
    config = transformers.DetrConfig(
        backbone_config=transformers.TimmBackboneConfig(backbone=backbone, out_indices=(1, 2, 3, 4)),
        encoder_layers=1, decoder_layers=1, d_model=32, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2, num_queries=5, num_labels=2,
    )  # fmt: skip
    return transformers.DetrForObjectDetection(config)


@whose(ONE_SIZE)
def test_training_detr(whose: str) -> None:
    model = detr(whose)
    boxes = [dict(class_labels=torch.tensor([1]), boxes=torch.tensor([[0.5, 0.5, 0.2, 0.2]]))]
    x = images(1, 224, 224 if whose == MADE_FOR_IT else 256)
    model(pixel_values=x, labels=boxes).loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if 'stages' in name and p.requires_grad)


@whose(LOST)
def test_saving_detr(whose: str, tmp_path: Path) -> None:
    model, x = detr(whose).eval(), images(1, 224, 224)
    model.save_pretrained(tmp_path)
    again = transformers.DetrForObjectDetection.from_pretrained(tmp_path)
    assert_same(again(x).logits, model(x).logits)
