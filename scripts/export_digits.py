"""Write the digits of `train_digits.py` as an image folder, which timm's scripts read: `export_digits.py OUT`."""

import sys
from pathlib import Path

from PIL import Image
from train_digits import digits


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = Path(sys.argv[1])
    for part in ('train', 'validation'):
        images, classes = digits(train=part == 'train')
        grey = ((images[:, 0] / 2 + 0.5) * 255).round().byte().numpy()
        for i, (pixels, c) in enumerate(zip(grey, classes.tolist(), strict=True)):
            folder = out / part / str(c)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f'{i:04}.png')
        print(f'wrote {len(grey)} images to {out / part}')


if __name__ == '__main__':
    main()
