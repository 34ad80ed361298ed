"""What several commands have in common: the model, a line before a long step, and the file of the result."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from ..errors import shown
from ..files import write_file

model_option = click.option(
    '--model', 'name', required=True, type=click.Path(readable=False),
    help='Name with or without a tag, folder, checkpoint or hf-hub:ORG/NAME.',
)  # fmt: skip


def image_size(text: str) -> tuple[int, int]:
    """The height and width of images: `320`, or `192x256`."""
    height, _, width = text.partition('x')
    try:
        return int(height), int(width or height)
    except ValueError as e:
        raise click.BadParameter(f'{text!r} is not a size in pixels such as 320 or 192x256') from e


def size_option(help: str) -> Callable:
    """The option `--img-size`."""
    return click.option('--img-size', type=image_size, metavar='PIXELS|HEIGHTxWIDTH', help=help)


def announce(step: str) -> None:
    """Print what takes long on stderr, if stderr is a terminal."""
    if sys.stderr.isatty():
        click.echo(f'{shown(step)} ...', err=True)


def check_out(out: Path, suffix: str, image: Path | None = None) -> None:
    """Before the work, refuse a file that cannot be written, has another suffix, is no file, or is the image itself."""
    if out.suffix.lower() != suffix:
        problem = f'{shown(out)} does not end in {suffix}, the only format that can be written.'
    elif not os.path.isdir(out.parent):
        problem = f'There is no folder {shown(out.parent)}; create it, or choose another.'
    elif not os.access(out.parent, os.W_OK):
        problem = f'{shown(out)} cannot be written: its folder is not writable.'
    elif os.path.isdir(out):
        problem = f'{shown(out)} is a folder; name a file in it.'
    elif os.path.lexists(out) and (os.path.islink(out) or not os.path.isfile(out)):
        problem = f'{shown(out)} is a link, a pipe or a device; name a file.'
    elif image is not None and os.path.realpath(out) == os.path.realpath(image):
        problem = f'{shown(out)} is the image itself, which would be lost; write to another file.'
    else:
        return
    raise click.ClickException(problem)


def write_out(out: Path, write: Callable[[Path], object]) -> None:
    """Write the file of the result, by `write` at a path beside it. An older file stays if that fails."""
    try:
        write_file(out, write)
    except OSError as e:
        raise click.ClickException(f'{shown(out)} cannot be written: {e.strerror or e}.') from e
