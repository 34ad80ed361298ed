"""Export scikit-learn's digits as an image folder, which timm's scripts read.

    python scripts/export_digits.py data/digits

The command writes `train/CLASS/*.png` and `validation/CLASS/*.png`: 1,437 and 360 grey images of 64x64 pixels. These
are the parts that `train_digits.py` trains and evaluates on.
"""

import argparse
from pathlib import Path

from PIL import Image
from train_digits import digits


def export(out: Path, limit: int | None = None) -> int:
    """Write the image folder.

    Args:
        out: Folder to write.
        limit: Number of images of each part. Default: all.

    Returns:
        How many images were written.
    """
    count = 0
    for part in ('train', 'validation'):
        images, classes = digits(train=part == 'train')
        grey = ((images[:limit, 0] / 2 + 0.5) * 255).round().byte().numpy()
        for i, (pixels, c) in enumerate(zip(grey, classes[:limit].tolist(), strict=True)):
            folder = out / part / str(c)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f'{i:04}.png')
            count += 1
    return count


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder to write')
    args = parser.parse_args()
    print(f'wrote {export(args.out)} images to {args.out}')
