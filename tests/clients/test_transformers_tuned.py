"""transformers loads what `convert` makes of train.py's checkpoints, with labels, and grey networks on PNG files."""

import argparse
from pathlib import Path

import pytest
import timm
import torch
from clients import LABELS, assert_same, client, draw_images, images
from paths import DATA
from peers import randomize_
from PIL import Image
from timm.utils import CheckpointSaver

from coatnet_zoo import convert_checkpoint

transformers = client('transformers')
TINY = dict(stem_width=(8, 16), embed_dim=(32, 32, 64, 64), depths=(1, 1, 2, 1))


@pytest.fixture
def tuned(tmp_path: Path) -> torch.nn.Module:
    """A network, and in the folder what timm's train.py saves of the network."""
    kwargs = dict(TINY, impl='timm')
    model = randomize_(timm.create_model('coatnet_0', num_classes=3, **kwargs))
    args = argparse.Namespace(model='coatnet_0', model_kwargs=kwargs, num_classes=3, img_size=64, mean=[0.4], drop=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    saver = CheckpointSaver(model, optimizer, args=args, checkpoint_dir=tmp_path, recovery_dir=tmp_path)
    saver.save_checkpoint(0, metric=50.0)
    return model.eval()


def test_auto_classes_load_a_tuned_model(tuned: torch.nn.Module, tmp_path: Path) -> None:
    convert_checkpoint(tmp_path / 'model_best.pth.tar', tmp_path / 'out', labels=LABELS)
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / 'out')
    x = images()
    assert_same(loaded.eval()(x).logits, tuned(x))
    assert loaded.config.id2label == dict(enumerate(LABELS))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / 'out')
    file = draw_images(tmp_path / 'images')[0]
    pixels = processor(Image.open(file), return_tensors='pt')['pixel_values']
    in_timm = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True)
    config = timm.data.resolve_model_data_config(in_timm)
    assert list(config['mean']) == [0.4] * 3 and pixels.shape == (1, 3, 64, 64)
    assert torch.equal(pixels[0], timm.data.create_transform(**config)(Image.open(file).convert('RGB')))


def test_pipeline_of_a_grey_network_on_files(tmp_path: Path) -> None:
    source, said = DATA / 'chinhsuanwu_digits_64.pth', dict(mean=[0.5], std=[0.5], crop_pct=1.0)
    names = [f'digit {i}' for i in range(10)]
    convert_checkpoint(source, tmp_path / 'grey', labels=names, **said)
    convert_checkpoint(source, tmp_path / 'colour', labels=names, in_chans=3, **said)
    grey = timm.create_model(f'local-dir:{tmp_path / "grey"}', pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(grey))
    classify = transformers.pipeline('image-classification', model=str(tmp_path / 'colour'))
    for file in sorted((DATA / 'digits').iterdir()):
        scores = grey(transform(Image.open(file).convert('L')).unsqueeze(0)).softmax(1)[0]
        best = classify(str(file))[0]
        assert best['label'] == names[scores.argmax()]
        assert best['score'] == pytest.approx(scores.max().item(), abs=1e-4)
