"""The command that names the classes of images: predict."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import shown
from .output import announce, check_out, model_option, size_option, write_out


@click.command()
@click.argument('images', nargs=-1, required=True, metavar='IMAGE...', type=click.Path(readable=False))
@model_option
@click.option('--topk', type=click.IntRange(min=1), default=5, show_default=True, help='Classes for each image.')
@click.option('--json', 'as_json', is_flag=True, help='Print a list: file, predictions (index, label, probability).')
@click.option('--out', type=click.Path(path_type=Path), help='CSV file to write instead; an existing file is replaced.')
@click.option('--batch-size', type=click.IntRange(min=1), default=8, show_default=True, help='Images per batch.')
@size_option("Size of the images. Default: the model's; for a checkpoint, its training size.")
@click.option('--optimize', is_flag=True, help='Optimise the model first; pays off from a few dozen images.')
def predict(
    images: tuple[str, ...], name: str, topk: int, as_json: bool, out: Path | None, batch_size: int, **options: Any
) -> None:
    """Name the most probable classes of images.

    IMAGE is a file, a folder with images, or a pattern such as 'photos/**/*.jpg'. If an image cannot be read, the
    others are still classified, and the exit code is 1.
    """
    if out is not None:
        check_out(out, '.csv')
    announce(f'loading {name}')
    from coatnet_zoo_runtime import RECORD_FILE, has_holes

    from ..images import classify, csv_text, find_images, json_text, readable

    files, problems = find_images(images)
    answers, holes = [], []
    if files:
        is_exported = os.path.isfile(os.path.join(name, RECORD_FILE))
        network, prepare, labels = _exported(name, **options) if is_exported else _model(name, **options)
        if labels is None:
            click.echo('The model has no label names; classes are numbers.', err=True)

        def noting(image: Any) -> Any:
            holes.append(has_holes(image))
            return prepare(image)

        predictions = classify(network, noting, labels, files, topk, batch_size)
        if len(files) > batch_size and sys.stderr.isatty():
            with click.progressbar(predictions, len(files), label=f'{len(files)} images', file=sys.stderr) as bar:
                answers = list(bar)
        else:
            answers = list(predictions)
    problems += [answer.problem for answer in answers if answer.problem]
    answered = [answer for answer in answers if not answer.problem]
    if as_json:
        click.echo(json_text(answered))
    elif answered and out is None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        click.echo('\n'.join(readable(answered, width)))
    if answered and out is not None:
        text = csv_text(answered).encode(errors='surrogateescape')
        write_out(out, lambda partial: partial.write_bytes(text))
        click.echo(f'wrote {shown(out)}, with {len(answered)} of {len(answers)} images', err=as_json)
    if any(holes):
        click.echo(f'Transparent parts of {sum(holes)} of {len(answers)} images were put on white.', err=True)
    for problem in problems:
        click.echo(f'Error: {problem}', err=True)
    if problems:
        raise SystemExit(1)


def _exported(folder: str, **options: Any) -> tuple[Callable, Callable, list[str] | None]:
    """The network, the preparation of images and the labels of an exported folder; without torch."""
    from coatnet_zoo_runtime import load_exported

    if any(options.values()):
        raise click.ClickException(f'{shown(folder)} is exported: leave out --optimize and --img-size.')
    model = load_exported(folder, performance='throughput')
    return model, model.prepare, model.labels


def _model(name: str, img_size: tuple[int, int] | None, optimize: bool) -> tuple[Callable, Callable, list[str] | None]:
    """The network, the preparation of images and the labels of a model."""
    from coatnet_zoo_runtime import prepare

    from ..factory import load_model
    from ..images import classifier_problem, data_config, known_labels, logits_of

    model = load_model(name, img_size)
    if problem := classifier_problem(model):
        raise click.ClickException(problem)
    config = data_config(model, model.img_size)
    labels = known_labels(model)
    if optimize:
        from ..inference import optimize_for_inference

        announce('optimizing the model')
        model = optimize_for_inference(model)
    return logits_of(model), lambda image: prepare(image, config), labels
