"""torchvision: detectors on our features, with images of mixed sizes."""

import pytest
import timm
import torch
from clients import NAMES, ONE_SIZE, arguments, client, learns, whose

client('torchvision')
from torchvision.models.detection import FasterRCNN, RetinaNet  # noqa: E402
from torchvision.models.detection.backbone_utils import BackboneWithFPN  # noqa: E402


@whose(ONE_SIZE)
@pytest.mark.parametrize('detector', [FasterRCNN, RetinaNet], ids=lambda d: d.__name__)
def test_mixed_sizes(whose: str, detector: type) -> None:
    features = timm.create_model(NAMES[whose], features_only=True, out_indices=(1, 2, 3, 4), **arguments(whose))
    layers = {f'stages_{i}': str(i) for i in range(4)}
    backbone = BackboneWithFPN(features, layers, features.feature_info.channels(), out_channels=16)
    model = detector(backbone, num_classes=3, min_size=128, max_size=256)
    pictures = [torch.rand(3, 120, 200), torch.rand(3, 180, 96)]
    target = dict(boxes=torch.tensor([[10.0, 10.0, 90.0, 90.0]]), labels=torch.tensor([1]))
    learns(model, lambda: sum(model(pictures, [target, target]).values()))
    found = model.eval()(pictures)
    assert [set(f) for f in found] == [{'boxes', 'labels', 'scores'}] * 2
