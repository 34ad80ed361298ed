"""torchvision: detectors on our features, with images of mixed sizes."""

import pytest
import timm
import torch
from clients import MADE_FOR_IT, NAMES, ONE_SIZE, arguments, client, learns, whose

client('torchvision')
from torchvision.models.detection import FasterRCNN, RetinaNet  # noqa: E402
from torchvision.models.detection.backbone_utils import BackboneWithFPN  # noqa: E402


@whose(ONE_SIZE)
@pytest.mark.parametrize('detector', [FasterRCNN, RetinaNet], ids=lambda d: d.__name__)
def test_mixed_sizes(whose: str, detector: type) -> None:
    sizes = [(128, 256)] * 2 if whose == MADE_FOR_IT else [(120, 200), (180, 96)]
    kwargs = arguments(whose, size=sizes[0])
    features = timm.create_model(NAMES[whose], features_only=True, out_indices=(1, 2, 3, 4), **kwargs)
    layers = {f'stages_{i}': str(i) for i in range(4)}
    backbone = BackboneWithFPN(features, layers, features.feature_info.channels(), out_channels=16)
    model = detector(backbone, num_classes=3, min_size=128, max_size=256)
    pictures = [torch.rand(3, *size) for size in sizes]
    target = dict(boxes=torch.tensor([[10.0, 10.0, 90.0, 90.0]]), labels=torch.tensor([1]))
    learns(model, lambda: sum(model(pictures, [target, target]).values()))
    found = model.eval()(pictures)
    assert [set(f) for f in found] == [{'boxes', 'labels', 'scores'}] * 2
