"""The command that names the classes of images: predict."""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import click

import coatnet_zoo_command

from ..errors import CheckpointError, ExplainError, HubError, PredictError, shown
from ..files import write_file
from ..slow import say_if_slow

_MANY = 10  # images that deserve a progress bar
_Item = TypeVar('_Item')


@click.command()
@click.argument('images', nargs=-1, required=True, metavar='IMAGE...')
@click.option(
    '--model', 'name', required=True, help='Name with or without a tag, folder, checkpoint or hf-hub:ORG/NAME.'
)
@click.option('--topk', type=click.IntRange(min=1), default=5, show_default=True, help='Classes for each image.')
@click.option(
    '--json',
    'as_json',
    is_flag=True,
    help='Machine-readable: a list of objects with file and predictions (index, label, probability).',
)
@click.option('--out', type=click.Path(path_type=Path), help='CSV file to write instead; an older file is replaced.')
@click.option(
    '--batch-size',
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help='Images that the model computes at once.',
)
@click.option('--optimize', is_flag=True, help='Make the model faster first, which pays from a few dozen images on.')
def predict(
    images: tuple[str, ...],
    name: str,
    topk: int,
    as_json: bool,
    out: Path | None,
    batch_size: int,
    optimize: bool,
) -> None:
    """Name the most probable classes of images.

    IMAGE is a file, a folder with images, or a pattern such as 'photos/**/*.jpg'. If an image cannot be read, the
    others are answered nevertheless, and the exit code is 1.
    """
    coatnet_zoo_command.import_models()
    from ..factory import load_model
    from ..images import check_classifier, check_out, classify, csv_text, find_images, json_text, known_labels, readable
    from ..inference import optimize_for_inference

    try:
        if out is not None:
            check_out(out, suffix='.csv')
        files, problems = find_images(images)
        answers = []
        if files:
            model = load_model(name)
            check_classifier(model)
            if known_labels(model) is None:
                click.echo('The model has no label names; classes are numbers.', err=True)
            if optimize:
                model = optimize_for_inference(model)
            with _progress(classify(model, files, topk, batch_size), len(files)) as predictions:
                answers = list(predictions)
    except (CheckpointError, ExplainError, HubError, PredictError) as e:
        raise click.ClickException(str(e)) from e
    problems += [answer.problem for answer in answers if answer.problem]
    answered = [answer for answer in answers if not answer.problem]
    if as_json:
        click.echo(json_text(answered))
    elif answered and out is None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        click.echo('\n'.join(readable(answered, width)))
    if answered and out is not None:
        text = csv_text(answered)
        try:
            write_file(out, lambda partial: partial.write_bytes(text.encode(errors='surrogateescape')))
        except OSError as e:
            raise click.ClickException(f'{shown(out)} cannot be written: {e.strerror or e}.') from e
        click.echo(f'wrote {shown(out)}, with {len(answered)} of {len(answers)} images', err=as_json)
    for problem in problems:
        click.echo(f'Error: {problem}', err=True)
    if problems:
        raise SystemExit(1)


@contextlib.contextmanager
def _progress(items: Iterator[_Item], length: int) -> Iterator[Iterator[_Item]]:
    """Items with a progress bar if they are many, on a terminal; otherwise a line in the log if they take long."""
    if length >= _MANY and sys.stderr.isatty():
        with click.progressbar(items, length, label=f'{length} images', file=sys.stderr) as bar:
            yield iter(bar)
    else:
        with say_if_slow(f'Classifying {length} {"image" if length == 1 else "images"}'):
            yield items
