"""The most probable classes of image files, batch by batch."""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import ExplainError, PredictError, shown
from ..network import CoAtNet
from .reading import Guess, classifier_problem, data_config, known_labels, open_image, prepare_image


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of a file, the most probable class first; or the reason why there are none."""

    file: Path
    guesses: tuple[Guess, ...]
    problem: str | None = None


def check_classifier(model: CoAtNet) -> None:
    """Refuse a model that cannot classify images.

    Raises:
        PredictError: If the model has no classifier, or takes neither one channel nor three.
    """
    if problem := classifier_problem(model):
        raise PredictError(problem)


def classify(model: CoAtNet, files: Iterable[Path], topk: int, batch_size: int) -> Iterator[Prediction]:
    """Classify image files. Only one batch of images is in memory at a time.

    An image is prepared as timm prepares it for the model: grey for models of one channel, otherwise RGB. The image is
    upright as the camera recorded it, and transparency becomes white.

    Args:
        model: A CoAtNet on the CPU, in evaluation mode, also one from `optimize_for_inference`; see
            `check_classifier`.
        files: The files. A file that cannot be read does not end the iteration.
        topk: Number of classes for each file; at most all classes.
        batch_size: Number of images that the model computes at once.

    Yields:
        One prediction for each file, in the order of the files.

    Raises:
        ExplainError: If the configuration of the model has no mean and std for its channels.
    """
    config, labels = data_config(model, model.img_size), known_labels(model) or [None] * model.num_classes
    remaining = iter(files)
    while batch := list(itertools.islice(remaining, batch_size)):
        answers: dict[Path, Prediction] = {}
        images: dict[Path, torch.Tensor] = {}
        for file in batch:
            try:
                images[file] = prepare_image(open_image(file), config)
            except ExplainError as e:
                answers[file] = Prediction(file, (), str(e))
        if images:
            with torch.inference_mode():
                probabilities, classes = (
                    model(torch.stack(list(images.values()))).softmax(1).topk(min(topk, model.num_classes))
                )
            for file, indices, values in zip(images, classes.tolist(), probabilities.tolist(), strict=True):
                if math.isfinite(values[0]):
                    guesses = tuple(Guess(i, labels[i], p) for i, p in zip(indices, values, strict=True))
                    answers[file] = Prediction(file, guesses)
                else:
                    problem = f'The logits for {shown(file)} are not finite; the weights of the model may be damaged.'
                    answers[file] = Prediction(file, (), problem)
        yield from map(answers.__getitem__, batch)
