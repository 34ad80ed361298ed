"""The main jobs on real input, offline: classify images with bundled weights, convert a checkpoint and check it."""

import tempfile
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from train_digits import digits, measure

import coatnet_zoo

DATA = Path(__file__).parents[1] / 'tests' / 'data'


def classify(folder: Path) -> None:
    """Classify the PNG files of a folder with the bundled weights. File names begin with the right class."""
    model = timm.create_model('coatnet_atto.digits', pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(model))
    labels = model.pretrained_cfg['label_names']
    for path in sorted(folder.glob('*.png')):
        with Image.open(path) as image, torch.inference_mode():
            probs, classes = model(transform(image)[None]).softmax(1)[0].topk(3)
        guesses = '   '.join(f'{labels[c]} {p:6.2%}' for p, c in zip(probs, classes, strict=True))
        print(f'  {path.name:16} {guesses}')


def convert(checkpoint: Path, expected: Path) -> None:
    """Convert a checkpoint, load the folder through timm, and compare with the original code's logits."""
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp) / 'converted'
        preprocessing = dict(mean=[0.5], std=[0.5], interpolation='bilinear', crop_pct=1.0)
        coatnet_zoo.convert_checkpoint(checkpoint, folder, **preprocessing)
        print(f'  {checkpoint.name} -> {", ".join(sorted(p.name for p in folder.iterdir()))}')
        model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    print(f'  top-1 on the held-out digits: {measure(model, *digits(train=False))[1]:.2f} %')
    reference = torch.load(expected, weights_only=True)
    with torch.inference_mode():
        difference = (model(reference['x']) - reference['logits']).abs().max()
    print(f"  largest difference from the original code's logits: {difference:.1e}")


if __name__ == '__main__':
    print('Models:', ', '.join(timm.list_models(module='coatnet')))
    print('\nHeld-out digits, read by coatnet_atto.digits (top 3):')
    classify(DATA / 'digits')
    print('\nA checkpoint trained with chinhsuanwu/coatnet-pytorch, converted:')
    convert(DATA / 'chinhsuanwu_digits_64.pth', DATA / 'chinhsuanwu_digits_64_expected.pt')
