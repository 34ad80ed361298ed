"""The main jobs on real input, offline: classify images with bundled weights, convert a checkpoint and check it.

python scripts/demo.py
"""

import tempfile
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.models import is_model_in_modules
from train_digits import digits, measure

import coatnet_zoo

DATA = Path(__file__).parents[1] / 'tests' / 'data'


def list_models() -> None:
    """Print the registered models and the published weights."""
    print('Models:', ', '.join(timm.list_models(module='coatnet')))
    weights = [name for name in timm.list_pretrained('coatnet_*') if is_model_in_modules(name, 'coatnet')]
    print('Weights:', ', '.join(weights))


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
        coatnet_zoo.convert_checkpoint(
            checkpoint, folder, mean=[0.5], std=[0.5], interpolation='bilinear', crop_pct=1.0
        )
        print(f'  {checkpoint.name} -> {", ".join(sorted(p.name for p in folder.iterdir()))}')
        model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    x, y = digits(train=False)
    print(f'  top-1 on the {len(y)} held-out digits: {measure(model, x, y)[1]:.2f} %')
    reference = torch.load(expected, weights_only=True)
    with torch.inference_mode():
        difference = (model(reference['x']) - reference['logits']).abs().max()
    print(f"  largest difference from the original code's logits, {len(reference['x'])} images: {difference:.1e}")


if __name__ == '__main__':
    list_models()
    print('\nHeld-out digits, read by coatnet_atto.digits (top 3):')
    classify(DATA / 'digits')
    print('\nA checkpoint trained with chinhsuanwu/coatnet-pytorch, converted:')
    convert(DATA / 'chinhsuanwu_digits_64.pth', DATA / 'chinhsuanwu_digits_64_expected.pt')
