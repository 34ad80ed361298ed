"""The most probable classes of image files, batch by batch, by any function that computes logits; without torch."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from coatnet_zoo_runtime import ImageError, open_image

from ..errors import shown


@dataclass(frozen=True)
class Guess:
    """A class, its label if the model has labels, and its probability."""

    index: int
    label: str | None
    probability: float

    @property
    def name(self) -> str:
        """The label, or 'class 7' without a label."""
        return f'class {self.index}' if self.label is None else self.label


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of a file, the most probable class first; or the reason why there are none."""

    file: Path
    guesses: tuple[Guess, ...]
    problem: str | None = None


def classify(
    network: Callable[[np.ndarray], np.ndarray], prepare: Callable[[Image.Image], np.ndarray],
    labels: Sequence[str] | None, files: Iterable[Path], topk: int, batch_size: int,
) -> Iterator[Prediction]:  # fmt: skip
    """Classify image files. Only one batch of images is in memory at a time.

    Args:
        network: Images (B, C, H, W) -> logits (B, num_classes), both float32.
        prepare: Makes (C, H, W) of an image.
        labels: The labels of the classes, if the model has labels.
        files: The files. A file that cannot be read does not end the iteration.
        topk: Number of classes for each file; at most all classes.
        batch_size: Number of images that the network computes at once.

    Yields:
        One prediction for each file, in the order of the files.
    """
    remaining = iter(files)
    while batch := list(itertools.islice(remaining, batch_size)):
        answers: dict[Path, Prediction] = {}
        images: dict[Path, np.ndarray] = {}
        for file in batch:
            try:
                images[file] = prepare(open_image(file))
            except ImageError as e:
                answers[file] = Prediction(file, (), str(e))
        if images:
            logits = network(np.stack(list(images.values())))
            answers |= {file: _answer(file, row, labels, topk) for file, row in zip(images, logits, strict=True)}
        yield from map(answers.__getitem__, batch)


def _answer(file: Path, logits: np.ndarray, labels: Sequence[str] | None, topk: int) -> Prediction:
    if not np.isfinite(logits).all():
        problem = f'The logits for {shown(file)} are not finite; the weights of the model may be damaged.'
        return Prediction(file, (), problem)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    best = np.argsort(-probabilities, kind='stable')[:topk].tolist()
    return Prediction(file, tuple(Guess(i, labels and labels[i], float(probabilities[i])) for i in best))
