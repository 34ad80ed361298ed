"""The photos of a folder: finding, reading and splitting them, and the data set for timm's loader."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from coatnet_zoo_runtime import ImageError, opaque, open_image

from ..errors import FinetuneError, shown
from ..images import files_in


@dataclass
class Photo:
    """A file: its class, 'train', 'val' or 'skipped' with the reason, the hash of its pixels, and the model's guess."""

    file: Path
    label: str
    part: str
    problem: str = ''
    digest: str = ''
    guess: str = ''
    probability: float | None = None

    def skip(self, problem: str) -> None:
        """Leave the photo out; `problem` gives the reason after the name of the file."""
        self.part, self.problem = 'skipped', f'{shown(self.file)} {problem}'


@dataclass
class PhotoSet(Dataset):
    """Upright RGB images with class numbers; `timm.data.create_loader` sets the transform."""

    files: Sequence[Path]
    targets: Sequence[int]
    transform: Callable[[Any], Any] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(opaque(open_image(self.files[index]), 3)), self.targets[index]


def find_photos(root: Path, val: Any, seed: int, workers: int) -> list[Photo]:
    """Find, read and split the photos of a folder; see `finetune`. Equal photos are on the same side.

    Raises:
        FinetuneError: If a folder is missing, the validation has a class of its own, or there are not two classes.
    """
    folders, share, photos, problems = {'train': root}, 0.0, [], []
    names = [name for name in next(os.walk(root), ('', []))[1] if not name.startswith('.')]
    inside = [root / name for name in ('val', 'valid', 'validation', 'test') if name in names]
    if 'train' in names and (inside or names == ['train']):
        folders, val = {'train': root / 'train'}, inside[0] if inside and val is None else val
    try:
        share = 0.2 if val is None else float(val)
    except (TypeError, ValueError):
        folders['val'] = Path(val)
    if 'val' not in folders and not 0 < share < 1:
        raise FinetuneError(f'A share of {share:g} cannot be held out; give one such as 0.2, or a folder.')
    for part, folder in folders.items():
        if not os.path.isdir(folder):
            raise FinetuneError(f'There is no folder {shown(folder)}; give one with a folder of photos for each class.')
        for file in sorted(map(Path, files_in(str(folder), problems))):
            photos.append(Photo(file, file.relative_to(folder).parts[0], part))
            if file.parent == folder:
                photos[-1].skip('is in no class folder.')
    found = [photo for photo in photos if not photo.problem]
    reader = DataLoader(found, batch_size=None, collate_fn=_read, num_workers=workers)
    for photo, answer in zip(found, tqdm(reader, 'reading', leave=False, disable=None), strict=True):
        photo.digest, photo.problem = answer
        photo.part = 'skipped' if photo.problem else photo.part
    _split([photo for photo in found if not photo.problem], share, seed)
    train, held_out = ({p.label for p in photos if p.part == part} for part in ('train', 'val'))
    if held_out - train:
        raise FinetuneError(f'The validation set has {shown(min(held_out - train))}, a class without training photos.')
    if len(train) < 2 or not held_out:
        example = next((f' {photo.problem}' for photo in photos if photo.problem), '')
        raise FinetuneError(
            f'{shown(root)} needs two folders or more, one for each class, with two different photos or more in each; '
            f'it has {len(train)}.{example}'
        )
    return photos + [Photo(root, '', 'skipped', problem) for problem in problems]


def _read(photo: Photo) -> tuple[str, str]:
    """The hash of the pixels of a file, or why it cannot be read."""
    try:
        image = opaque(open_image(photo.file), 3)
    except ImageError as e:
        return '', str(e)
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest(), ''


def _split(photos: Sequence[Photo], share: float, seed: int) -> None:
    """Skip photos of several classes, and training photos that are for validation, too; hold out a share of a class."""
    equal, classes = defaultdict(list), defaultdict(set)
    for photo in photos:
        equal[photo.digest].append(photo)
    for photo in photos:
        copies = equal[photo.digest]
        if others := sorted({copy.label for copy in copies} - {photo.label}):
            photo.skip(f'is also in the class {shown(others[0])}.')
        elif photo.part == 'train' and any(copy.part == 'val' for copy in copies):
            photo.skip('is also in the validation set.')
        else:
            classes[photo.label].add(photo.digest)
    for digests in classes.values() if share else ():
        # The order depends on the pixels and the seed, and not on names.
        order = sorted(digests, key=lambda digest: hashlib.sha256(f'{seed} {digest}'.encode()).digest())
        count = max(1, min(round(share * len(order)), len(order) - 1))
        for photo in (photo for digest in order[:count] for photo in equal[digest]):
            photo.part = 'val'
            if len(order) == 1:
                photo.skip('is the only photo of its class.')
