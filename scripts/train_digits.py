"""Train `coatnet_atto` on scikit-learn's digits: the weights that are bundled as `coatnet_atto.digits`.

    python scripts/train_digits.py --out weights/coatnet_atto.digits

The 1,797 images of 8x8 pixels are scaled to 64x64. A stratified fifth (360 images, `train_test_split` with
random_state=0) is held out and used only to report the accuracy: the weights of the last epoch are kept.
"""

import argparse
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from tqdm import tqdm

import coatnet_zoo

CARD = Path(__file__).with_name('digits_model_card.md')


def scaled_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """All digits: images (1797, 1, 64, 64) in [-1, 1], and classes (1797,)."""
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    x = F.interpolate(x, size=(64, 64), mode='bilinear', align_corners=False)
    return (x - 0.5) / 0.5, torch.tensor(data.target)


def digits(train: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The training or the held-out part of `scaled_digits`."""
    x, y = scaled_digits()
    part = train_test_split(range(len(y)), test_size=0.2, random_state=0, stratify=y)[0 if train else 1]
    return x[part], y[part]


def write_images(images: torch.Tensor, classes: torch.Tensor, folder: Path) -> None:
    """Write images (N, 1, H, W) in [-1, 1] as PNG files, in a folder for each class."""
    for i, (image, label) in enumerate(zip(images[:, 0], classes.tolist(), strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(((image + 1) * 127.5).round().byte().numpy()).save(place / f'{i}.png')


def augment(x: torch.Tensor) -> torch.Tensor:
    """Rotate, scale, shear and shift every image a little; background fills the uncovered parts."""
    angle = (torch.rand(len(x)) - 0.5) * 0.5
    scale = 1 + (torch.rand(len(x), 2) - 0.5) * 0.3
    shear = (torch.rand(len(x)) - 0.5) * 0.3
    shift = (torch.rand(len(x), 2) - 0.5) * 0.3
    cos, sin = angle.cos(), angle.sin()
    rows = [cos * scale[:, 0], -sin + shear, shift[:, 0]], [sin, cos * scale[:, 1], shift[:, 1]]
    theta = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1


@torch.inference_mode()
def measure(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Mean cross-entropy, and top-1 accuracy in percent."""
    model.eval()
    logits = torch.cat([model(images) for images in x.split(250)])
    return F.cross_entropy(logits, y).item(), 100 * (logits.argmax(1) == y).sum().item() / len(y)


def train(epochs: int, seed: int) -> tuple[torch.nn.Module, float]:
    """Train from scratch. Returns the moving average of the model, and its held-out accuracy in percent."""
    torch.manual_seed(seed)
    x, y = digits(train=True)
    model = timm.create_model('coatnet_atto', drop_path_rate=0.05)
    optimizer = create_optimizer_v2(model, opt='adamw', lr=2e-3, weight_decay=0.05)
    rates = dict(warmup_epochs=5, warmup_lr=1e-5, min_lr=1e-6)
    scheduler, epochs = create_scheduler_v2(optimizer, sched='cosine', num_epochs=epochs, **rates)
    ema = ModelEmaV3(model, decay=0.99)
    mixup = Mixup(mixup_alpha=0.2, cutmix_alpha=0.0, label_smoothing=0.05, num_classes=10)
    loss_fn = SoftTargetCrossEntropy()
    for epoch in tqdm(range(epochs), unit='epoch'):
        model.train()
        for rows in torch.randperm(len(x)).split(64):
            rows = rows[: len(rows) // 2 * 2]  # mixup pairs images
            images, targets = mixup(augment(x[rows]), y[rows])
            loss = loss_fn(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            ema.update(model)
        scheduler.step(epoch + 1)
    return ema.module, measure(ema.module, *digits(train=False))[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, help='folder to write')
    parser.add_argument('--epochs', type=int, default=100)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    model, top1 = train(args.epochs, args.seed)
    command = f'python scripts/train_digits.py --epochs {args.epochs} --seed {args.seed} --out {args.out}'
    params = sum(p.numel() for p in model.parameters()) / 1e6
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / 'README.md').write_text(CARD.read_text().format(top1=top1, params=params, command=command))
    weights = args.out / 'model.safetensors'
    save_file(model.state_dict(), weights, metadata={'format': 'pt'})
    weights.chmod(0o644)  # safetensors writes files that only the owner can read
    print(f'{top1:.2f} % of the held-out digits; wrote {args.out}')


if __name__ == '__main__':
    assert coatnet_zoo  # the import registers the models
    main()
