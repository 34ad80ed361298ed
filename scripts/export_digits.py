"""Write the digits of `train_digits.py` as an image folder, which timm's scripts read: `export_digits.py OUT`."""

import sys
from pathlib import Path

from train_digits import digits, write_images


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = Path(sys.argv[1])
    for part in ('train', 'validation'):
        images, classes = digits(train=part == 'train')
        write_images(images, classes, out / part)
        print(f'wrote {len(images)} images to {out / part}')


if __name__ == '__main__':
    main()
